"""`actguard demo`: what is on screen is what the scopes report, in every way of showing and playing it."""

from __future__ import annotations

import argparse
import asyncio
import io
import re
import signal
import sys
from collections.abc import Iterator
from decimal import Decimal
from importlib import metadata
from typing import Any

import pytest
from rich.console import Console

import actguard
from actguard.cli import main
from actguard.demo import command, script
from actguard.demo.agents import SupportDesk
from actguard.demo.dashboard import Dashboard
from actguard.demo.lines import Lines
from actguard.demo.report import report_on
from actguard.demo.sdks import SDKS
from actguard.events import Event, LlmUsage
from actguard.testing import Failure, LoopbackProvider

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

SECRET = "sk-very-secret-0123456789"
BASE_URLS = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL", "google": "GOOGLE_GEMINI_BASE_URL"}

SCOPE_AND_MODEL = r"(?P<scope>\S+) +(?P<provider>\S+) +(?P<model>\S+) +"
TOKENS = r"(?P<input>[\d,]+) +(?P<cached>[\d,]+) +(?P<output>[\d,]+) +"
CALL = re.compile(rf"^{SCOPE_AND_MODEL}{TOKENS}~?(?P<usd>\d+\.\d+) +(?P<left>\d+\.\d+)$", re.MULTILINE)
ROW = re.compile(rf"^{SCOPE_AND_MODEL}(?P<calls>\d+) +{TOKENS}(?P<usd>\d+\.\d+)$", re.MULTILINE)
TOTAL = re.compile(rf"^total +(?P<calls>\d+) +{TOKENS}(?P<usd>[\d.]+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys, no addresses and no colours from the machine that the tests run on."""
    for name in (*(key for sdk in SDKS.values() for key in sdk.keys), *BASE_URLS.values(), "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def played(view: Any, *arguments: str, cap: str = "0.10") -> SupportDesk:
    """A demo played to its end on ``view``; the desk has its scopes."""
    given = options("--fast", *arguments)
    with actguard.Client() as client:
        desk = SupportDesk(client, Decimal(cap))
        view.introduce("title", "about")
        asyncio.run(command.play(given, client, desk, view))
        view.report(report_on(desk.ticket, live=bool(given.live)))
    return desk


def number(text: str) -> int:
    return int(text.replace(",", ""))


def sums(matches: list[re.Match[str]], **where: str) -> tuple[int, int, Decimal, int]:
    """Input, output, USD and cached input of the lines that match."""
    chosen = [match for match in matches if all(match[name] == value for name, value in where.items())]
    assert chosen
    return (
        sum(number(match["input"]) for match in chosen),
        sum(number(match["output"]) for match in chosen),
        sum((Decimal(match["usd"]) for match in chosen), Decimal(0)),
        sum(number(match["cached"]) for match in chosen),
    )


# --- figures --------------------------------------------------------------------------------------------------------


def test_plain_lines_show_what_the_scopes_report() -> None:
    out = io.StringIO()
    ticket = played(Lines(out)).ticket
    text = out.getvalue()
    research = ticket.research
    assert research is not None
    calls, rows, total = list(CALL.finditer(text)), list(ROW.finditer(text)), TOTAL.search(text)
    assert total is not None

    assert len(calls) == ticket.budget.calls == number(total["calls"])
    assert (
        sums(calls)[0] + sums(calls)[1] == ticket.budget.tokens_used == number(total["input"]) + number(total["output"])
    )
    assert sums(calls)[2] == ticket.budget.usd_used_exact == Decimal(total["usd"])
    assert sums(calls, scope="research")[2] == research.usd_used_exact

    breakdown = ticket.budget.breakdown()
    cached = sum(row.cached_input_tokens for row in breakdown)
    assert sums(calls)[3] == sums(rows)[3] == number(total["cached"]) == cached > 0
    assert len(rows) == len(breakdown) == 3
    for row, match in zip(breakdown, rows, strict=True):
        assert (row.scope_name, row.provider, row.model) == (match["scope"], match["provider"], match["model"])
        assert (row.input_tokens, row.output_tokens, row.usd, row.cached_input_tokens) == sums([match])
        assert sums([match]) == sums(calls, scope=match["scope"], model=match["model"])


def test_what_is_left_counts_nested_calls_too() -> None:
    out = io.StringIO()
    played(Lines(out))
    left = {"support": Decimal("0.10"), "research": Decimal("0.04")}
    for call in CALL.finditer(out.getvalue()):
        for scope in {call["scope"], "support"}:
            left[scope] -= Decimal(call["usd"])
        assert Decimal(call["left"]) == max(left[call["scope"]], Decimal(0))


def test_all_three_sdks_are_played_and_billed_as_shown() -> None:
    out = io.StringIO()
    played(Lines(out))
    assert {call["provider"] for call in CALL.finditer(out.getvalue())} == {"openai", "anthropic", "google"}


def test_the_nested_cap_stops_the_sub_agent_and_the_outer_one_goes_on() -> None:
    out = io.StringIO()
    ticket = played(Lines(out)).ticket
    text = out.getvalue()
    flat = " ".join(text.split())
    research = ticket.research
    assert research is not None
    assert research.usd_used_exact >= Decimal("0.04") > research.usd_used_exact - Decimal("0.011")
    assert f"STOPPED: scope research has used {research.usd_used_exact:.6f} of its 0.040000 USD," in flat
    assert "support is told: Blocked:" in text
    stopped = text.index("STOPPED")
    assert [call["scope"] for call in CALL.finditer(text, stopped)] == ["support", "support", "support"]
    assert ticket.stopped is None
    assert ticket.answer == script.ANSWER
    assert ticket.note == script.NOTE
    assert "a sub-agent that went round in circles was stopped" in flat


def test_the_cap_of_the_whole_run_ends_it() -> None:
    out = io.StringIO()
    ticket = played(Lines(out), cap="0.003").ticket
    assert ticket.stopped is not None
    assert ticket.stopped.scope_id == ticket.budget.scope_id
    assert ticket.budget.calls == 1
    assert "STOPPED: scope support has used 0.004100 of its 0.003000 USD," in " ".join(out.getvalue().split())
    assert "the budget ended the run" in out.getvalue()


def test_a_budget_that_is_never_reached_stops_nobody() -> None:
    out = io.StringIO()
    ticket = played(Lines(out), cap="50").ticket
    assert ticket.stopped is None
    assert "STOPPED" not in out.getvalue()
    assert "no cap reached" in " ".join(out.getvalue().split())


# --- ways of showing it ---------------------------------------------------------------------------------------------


def test_no_plain_line_is_wider_than_80_characters() -> None:
    out = io.StringIO()
    played(Lines(out))
    assert max(map(len, out.getvalue().splitlines())) <= 80


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("width", "height"), [(80, 30), (120, 40), (60, 20)])
def test_the_live_display_ends_with_every_call_and_fits(width: int, height: int) -> None:
    out = Terminal()
    console = Console(file=out, color_system=None, width=width, height=height, legacy_windows=False)
    with Dashboard(console) as view:
        ticket = played(view).ticket
    last_frame = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", out.getvalue()).rpartition("title")[2]
    assert "STOPPED BY ITS CAP" in last_frame
    assert "the answer to the customer" in last_frame
    assert max(map(len, last_frame.splitlines())) <= width
    shown = [line for line in last_frame.splitlines() if re.search(r"0\.\d{6} +0\.\d{6} *$", line)]
    assert len(shown) == ticket.budget.calls
    assert f"{ticket.budget.usd_used_exact:.6f}" in last_frame.partition("What it cost")[2]


@pytest.mark.parametrize(
    ("arguments", "environment", "live"),
    [
        ([], {"TERM": "xterm-256color"}, True),
        (["--plain"], {"TERM": "xterm-256color"}, False),
        ([], {"TERM": "dumb"}, False),
        ([], {"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
    ],
)
def test_the_display_is_live_where_that_is_wanted_and_possible(
    arguments: list[str], environment: dict[str, str], live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    with command.view_for(options(*arguments)) as view:
        assert isinstance(view, Dashboard if live else Lines)


def test_a_terminal_without_the_characters_of_a_bar_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Legacy(Terminal):
        encoding = "cp1252"

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", Legacy())
    with command.view_for(options()) as view:
        assert isinstance(view, Lines)


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(command, "HAS_RICH", False)
    with command.view_for(options()) as view:
        assert isinstance(view, Lines)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--fast"]) == 0
    out, errors = capsys.readouterr()
    assert out.startswith("ActGuard demo: a support agent that may spend 0.10 USD\n")
    assert errors == ""


def test_ctrl_c_is_one_clean_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    take = Lines.take

    def take_and_interrupt(self: Lines, event: Event) -> None:
        take(self, event)
        if isinstance(event, LlmUsage):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Lines, "take", take_and_interrupt)
    assert main(["demo", "--fast"]) == 130
    assert re.fullmatch(r"\nStopped by you, after 0\.\d{6} USD\.\n", capsys.readouterr().err)


def test_when_nobody_reads_any_more_nothing_more_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            if CALL.search(text):
                raise BrokenPipeError
            return super().write(text)

    with actguard.Client() as client:
        desk = SupportDesk(client, Decimal("0.10"))
        with pytest.raises(BrokenPipeError):
            asyncio.run(command.play(options("--fast"), client, desk, Lines(Pipe())))
    assert desk.ticket.budget.calls < 11


@pytest.mark.parametrize("cap", ["0", "-1", "nan", "inf", "much"])
def test_a_cap_that_is_no_amount_is_refused(cap: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", f"--cap={cap}"])
    assert end.value.code == 2
    assert "--cap" in capsys.readouterr().err


def test_an_sdk_that_is_missing_is_played_by_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)  # what an import finds that is not installed
    assert main(["demo", "--fast"]) == 0
    out = capsys.readouterr().out
    assert "Not installed, so played by another: anthropic." in " ".join(out.split())
    assert {call["provider"] for call in CALL.finditer(out)} == {"openai", "google"}


def test_without_any_sdk_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for sdk in SDKS.values():
        monkeypatch.setitem(sys.modules, sdk.module, None)
    assert main(["demo"]) == 2
    assert "pip install 'actguard[openai,anthropic,google,cli]'" in capsys.readouterr().err


# --- live -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def live_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackProvider]:
    """What the SDKs take for the real providers: their clients read these addresses from the environment."""
    with LoopbackProvider() as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.anthropic_url)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", provider.google_url)
        yield provider


# Without this condition such a call would leave the machine.
ADDRESSED = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "google" and metadata.version("google-genai").startswith("0."),
            reason="this SDK takes no address from the environment",
        ),
    )
    for name in sorted(SDKS)
]


@pytest.mark.parametrize("name", ADDRESSED)
def test_live_one_provider_plays_all_parts_within_two_cents(
    name: str, live_provider: LoopbackProvider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SDKS[name].keys[-1], SECRET)
    script.perform(live_provider, pace=0)
    assert main(["demo", "--live", name]) == 0
    out, errors = capsys.readouterr()
    assert "may spend 0.02 USD" in out
    assert {call["provider"] for call in CALL.finditer(out)} == {name}
    assert {call["model"] for call in CALL.finditer(out)} == {SDKS[name].live_model}
    assert "STOPPED: scope research" in out
    assert {request.provider for request in live_provider.requests} == {name}
    assert SECRET not in out + errors


@pytest.mark.parametrize("name", ADDRESSED)
def test_live_with_a_key_that_is_refused(
    name: str, live_provider: LoopbackProvider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SDKS[name].keys[0], SECRET)
    live_provider.script(Failure(401, f"Incorrect API key provided: {SECRET}."))
    assert main(["demo", "--live", name]) == 1
    out, errors = capsys.readouterr()
    assert f"{name} did not accept the key in {SDKS[name].keys[0]}" in errors
    assert "Spent: 0.000000 USD." in errors
    assert SECRET not in out + errors


def test_live_with_a_provider_that_fails(
    live_provider: LoopbackProvider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    live_provider.script(Failure(404, f"The model does not exist or you ({SECRET}) have no access to it."))
    assert main(["demo", "--live", "openai", "--model", "gpt-99"]) == 1
    out, errors = capsys.readouterr()
    assert "as gpt-99" in out
    assert "openai failed (NotFoundError)" in errors
    assert "does not exist" in errors
    assert SECRET not in out + errors


@pytest.mark.parametrize("name", sorted(SDKS))
def test_live_without_a_key_says_where_it_is_looked_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--live", name]) == 2
    errors = capsys.readouterr().err
    assert all(key in errors for key in SDKS[name].keys)


def test_live_without_the_sdk_says_which_extra_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    monkeypatch.setitem(sys.modules, "anthropic", None)
    assert main(["demo", "--live", "anthropic"]) == 2
    assert "pip install 'actguard[anthropic]'" in capsys.readouterr().err


def test_a_model_is_named_for_a_live_run_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", "gpt-5.4"]) == 2
    assert "--live" in capsys.readouterr().err
