"""The command line of the demo."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from decimal import Decimal, InvalidOperation
from importlib import import_module
from typing import Any, Protocol, TextIO

import actguard
from actguard.demo import amounts, script
from actguard.demo.agents import Cast, SupportDesk, Ticket
from actguard.demo.board import WATCHED
from actguard.demo.lines import Lines
from actguard.demo.report import Report, report_on
from actguard.demo.sdks import SDKS, Sdk, provider_problem
from actguard.events import Event
from actguard.subscription import Subscription
from actguard.testing import LoopbackProvider

try:
    from rich.console import Console

    from actguard.demo.dashboard import Dashboard
except ModuleNotFoundError:  # the extra "cli" is not installed: plain lines then
    HAS_RICH = False
else:
    HAS_RICH = True

SCRIPTED_CAP = Decimal("0.10")
LIVE_CAP = Decimal("0.02")
TICK_SECONDS = 0.1

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes. A run that its budget ended is done: that is what the budget is for."""


class View(Protocol):
    """A way of showing the demo."""

    def introduce(self, title: str, about: str) -> None: ...
    def take(self, event: Event) -> None: ...
    def tick(self) -> None: ...
    def report(self, report: Report) -> None: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``actguard demo``."""
    parser.description = (
        "A support agent works on a ticket inside a budget. Its research agent, in a scope of its own, goes round in "
        "circles and is stopped by that scope's cap; the support agent goes on. The calls go through the real SDKs to "
        "a scripted provider on this machine: no key is needed and nothing is spent."
    )
    parser.epilog = "Exit codes: 0 done, 1 the provider failed, 2 something is missing or wrong, 130 interrupted."
    parser.add_argument(
        "--live",
        choices=sorted(SDKS),
        metavar="PROVIDER",
        help="let a real provider (openai, anthropic or google) play all three parts, with your key from "
        "OPENAI_API_KEY, ANTHROPIC_API_KEY, or GEMINI_API_KEY or GOOGLE_API_KEY; this costs money, at most the cap and "
        "what the one call that crosses it costs more",
    )
    parser.add_argument(
        "--cap",
        type=_amount,
        metavar="USD",
        help=f"the budget of the run (default: {SCRIPTED_CAP} scripted, {LIVE_CAP} live); research may use 40 %% of it",
    )
    parser.add_argument(
        "--model",
        help="with --live: the model that plays (default: "
        + ", ".join(f"{sdk.live_model} of {sdk.name}" for sdk in SDKS.values())
        + ")",
    )
    parser.add_argument("--fast", action="store_true", help="no pauses in the scripted answers")
    parser.add_argument("--plain", action="store_true", help="plain lines instead of the live display")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo; its exit code."""
    problem = _what_is_missing(options)
    if problem is not None:
        print(f"actguard demo: {problem}", file=sys.stderr)
        return USAGE
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may say what this terminal has no characters for
    cap: Decimal = options.cap or (LIVE_CAP if options.live else SCRIPTED_CAP)
    with actguard.Client() as client:
        desk = SupportDesk(client, cap)
        try:
            with view_for(options) as view:
                view.introduce(*_introduction(options, cap))
                asyncio.run(play(options, client, desk, view))
                view.report(report_on(desk.ticket, live=bool(options.live)))
        except KeyboardInterrupt:
            print(f"\nStopped by you, after {_spent(desk.ticket)}.", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            words = provider_problem(error)
            if words is None:
                raise
            print(f"\nactguard demo: {words} Spent: {_spent(desk.ticket)}.", file=sys.stderr)
            return FAILED
    return DONE


async def play(options: argparse.Namespace, client: actguard.Client, desk: SupportDesk, view: View) -> None:
    """Let the agents work, and show what the bus says about it."""
    async with AsyncExitStack() as stack, client.bus.subscribe(*WATCHED) as events:
        playing = asyncio.current_task()
        assert playing is not None

        def stop_playing(watcher: asyncio.Task[None]) -> None:
            if not watcher.cancelled() and watcher.exception() is not None:
                playing.cancel()  # nobody can watch any more: spend nothing more

        ticking = asyncio.create_task(_tick(view))
        watching = asyncio.create_task(_watch(events, view))
        watching.add_done_callback(stop_playing)
        ticking.add_done_callback(stop_playing)
        try:
            await desk.work(await _cast(options, stack))
        finally:
            events.close()
            await watching
            if ticking.done():
                await ticking
            ticking.cancel()
            view.tick()


async def _watch(events: Subscription[Any], view: View) -> None:
    async for event in events:
        view.take(event)


async def _tick(view: View) -> None:
    while True:
        view.tick()
        await asyncio.sleep(TICK_SECONDS)


async def _cast(options: argparse.Namespace, stack: AsyncExitStack) -> Cast:
    """Who plays: one live model in all three parts, or each SDK in its own, all talking to the scripted provider."""
    if options.live:
        sdk = SDKS[options.live]
        await asyncio.to_thread(import_module, sdk.module)
        star = await sdk.live(stack, options.model)
        return Cast(star, star, star)
    _without_proxy()
    provider = await stack.enter_async_context(LoopbackProvider())
    script.perform(provider, 0.0 if options.fast else 1.0)
    players = [_player(name) for name in ("openai", "anthropic", "google")]
    for sdk in players:
        await asyncio.to_thread(import_module, sdk.module)
    return Cast(*(sdk.scripted(provider) for sdk in players))


def _player(name: str) -> Sdk:
    """The SDK for a part, or another that is installed."""
    if SDKS[name].installed:
        return SDKS[name]
    return next(sdk for sdk in SDKS.values() if sdk.installed)


def _what_is_missing(options: argparse.Namespace) -> str | None:
    if options.live:
        sdk = SDKS[options.live]
        if not sdk.installed:
            return f"--live {sdk.name} needs the SDK of {sdk.name}. Install it: pip install 'actguard[{sdk.name}]'"
        if sdk.key is None:
            return f"--live {sdk.name} needs your key in the environment. Set {' or '.join(sdk.keys)}."
        return None
    if options.model:
        return "--model is for --live; the scripted parts have their models."
    if not any(sdk.installed for sdk in SDKS.values()):
        return "no provider SDK is installed. Install them: pip install 'actguard[openai,anthropic,google,cli]'"
    return None


def _introduction(options: argparse.Namespace, cap: Decimal) -> tuple[str, str]:
    title = f"ActGuard demo: a support agent that may spend {amounts.cap(cap)} USD"
    if options.live:
        model = options.model or SDKS[options.live].live_model
        return title, f"{options.live} plays all parts, as {model}, with your key, for real money."
    missing = [sdk.name for sdk in SDKS.values() if not sdk.installed]
    about = "SDKs and prices are real; the providers are scripted and run on this machine."
    if missing:
        about += f" Not installed, so played by another: {', '.join(missing)}."
    return title, about


@contextlib.contextmanager
def view_for(options: argparse.Namespace) -> Iterator[View]:
    """The live display where it can be shown and is wanted, else plain lines."""
    if options.plain or not HAS_RICH or not _is_lively(sys.stdout):
        yield Lines(sys.stdout)
    else:
        with Dashboard(Console()) as dashboard:
            yield dashboard


def _is_lively(out: TextIO) -> bool:
    """A terminal that can move its cursor, has colours that its user wants, and knows the characters of a bar."""
    unable = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
    return out.isatty() and not unable and out.encoding.lower().replace("-", "") == "utf8"


def _without_proxy() -> None:
    """A proxy for the network must not be asked for this machine."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, ("127.0.0.1", os.environ.get(name))))


def _spent(ticket: Ticket) -> str:
    return f"{amounts.usd(ticket.budget.usd_used_exact)} USD"


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(0)
    if not amount.is_finite() or amount <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of dollars above zero")
    return amount
