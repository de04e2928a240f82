"""Replays recorded provider traffic through the real SDK clients inside budget scopes, and compares what was counted.

The recordings are no part of this repository: they lie beside it, in ``../shared/traffic``, with a server that answers
as recorded and a driver that re-issues each request through the SDKs. Prices are taken as of the day the expected
figures were worked out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import re
import ssl
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from actguard.client import Client
from actguard.guards.budget import BudgetGuard
from actguard.money.prices import PriceBook
from actguard.money.usage import Usage

HERE = Path(__file__).parent
TRAFFIC = HERE.parents[2] / "shared" / "traffic"
KNOWN_DIFFERENCES = HERE / "known_differences.md"
PRICED_ON = datetime(2026, 11, 23, 12, tzinfo=UTC)
AT_ONCE = 6
HELPER_ERRORS = frozenset({"LengthFinishReasonError", "ContentFilterFinishReasonError", "RuntimeError"})
"""What the SDKs' stream helpers raise over answers that are complete, but not what they like."""

Kind = Literal["sync", "async"]
Mode = Literal["create", "raw", "helper"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """What a budget scope counted for one exchange."""

    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    usd: Decimal
    estimated: bool
    calls: int

    @classmethod
    def by(cls, budget: BudgetGuard) -> Counted:
        rows = budget.breakdown()
        return cls(
            input_tokens=sum(row.input_tokens for row in rows),
            cached_input_tokens=sum(row.cached_input_tokens for row in rows),
            cache_write_tokens=sum(row.cache_write_tokens for row in rows),
            output_tokens=sum(row.output_tokens for row in rows),
            usd=sum((row.usd for row in rows), Decimal()),
            estimated=any(row.estimated for row in rows),
            calls=sum(row.calls for row in rows),
        )


class Report:
    """What one replay found."""

    def __init__(self) -> None:
        self.judged: list[str] = []
        self.skipped: list[str] = []
        self.differences: dict[str, str] = {}

    @property
    def agreement(self) -> float:
        return 1 - len(self.differences) / max(len(self.judged), 1)

    def __str__(self) -> str:
        lines = [f"{key}: {why}" for key, why in sorted(self.differences.items())]
        return "\n".join(
            [f"{self.agreement:.1%} of {len(self.judged)} agree; not replayed: {len(self.skipped)}", *lines]
        )


class Traffic:
    """The recordings, and how to replay them."""

    def __init__(self, port: int, replay: ModuleType, exchanges: dict[str, Row], errors: dict[str, Row]) -> None:
        self.port = port
        self.exchanges = exchanges
        self.errors = errors
        self._replay = replay
        with (TRAFFIC / "expected.jsonl").open(encoding="utf-8") as lines:
            self.expected: dict[str, Row] = {row["id"]: row for row in map(json.loads, lines)}
        # Loading the root certificates for each client would take longer than the replay.
        self._tls = ssl.create_default_context()

    def rows(self, provider: str, *, errors: bool = False) -> list[Row]:
        """The recorded exchanges with one provider's SDK."""
        return [row for row in (self.errors if errors else self.exchanges).values() if row["provider"] == provider]

    async def replay(self, rows: list[Row], kind: Kind, mode: Mode = "create") -> Report:
        """Replays the exchanges, a few at once, each in a client, run and scope of its own, and compares."""
        report = Report()
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(row: Row) -> None:
            async with slots:
                try:
                    counted, error = await self.count(row, kind, mode)
                except NotImplementedError:
                    report.skipped.append(row["id"])
                    return
            if error is not None and (mode != "helper" or type(error).__name__ not in HELPER_ERRORS):
                raise error
            self._compare(row, counted, report)

        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(one(row))
        return report

    async def count(
        self, row: Row, kind: Kind, mode: Mode, usd_limit: Decimal | None = None
    ) -> tuple[Counted, Exception | None]:
        """What a budget scope counts for one exchange, and the error that the SDK raised.

        Raises:
            NotImplementedError: the driver cannot re-issue this exchange in this mode.
        """
        with scope(usd_limit) as budget:
            error = await self.call(row, kind, mode)
        return Counted.by(budget), error

    async def call(self, row: Row, kind: Kind, mode: Mode) -> Exception | None:
        """Re-issue one exchange in the scope that is active here; the error that the SDK raised.

        Raises:
            NotImplementedError: the driver cannot re-issue this exchange in this mode.
        """
        try:
            if kind == "sync":
                await asyncio.to_thread(self._replay.call_sync, row, self.port, mode, sdk=self._sync_clients)
            else:
                await self._replay.call_async(row, self.port, mode, sdk=self._async_clients)
        except NotImplementedError:
            raise
        except Exception as raised:
            return raised
        return None

    def _compare(self, row: Row, counted: Counted, report: Report) -> None:
        expected = self.expected[row["id"]]
        if expected.get("ambiguous"):
            return
        report.judged.append(row["id"])
        if expected["input_tokens"] is None:
            if counted.calls and not counted.estimated:
                report.differences[row["id"]] = f"has no usage, yet {counted} is not an estimate"
            return
        names = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")
        found = {name: getattr(counted, name) for name in names}
        wanted = {name: expected[name] for name in names}
        if expected["cost_usd"] is not None:
            found["usd"], wanted["usd"] = counted.usd, Decimal(expected["cost_usd"]) + search_fee(row, expected)
        wrong = [f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]]
        if counted.estimated or counted.calls != (1 if any(wanted.values()) else 0):
            wrong.append(f"{counted.calls} calls, estimated={counted.estimated}")
        if wrong:
            report.differences[row["id"]] = ", ".join(wrong)

    @cached_property
    def _sync_clients(self) -> Any:
        return _clients(self._replay, self._tls, asynchronous=False)

    @cached_property
    def _async_clients(self) -> Any:
        return _clients(self._replay, self._tls, asynchronous=True)


def _clients(replay: ModuleType, tls: ssl.SSLContext, *, asynchronous: bool) -> Any:
    """The driver's client factories, with one TLS context for all."""
    import anthropic
    import openai

    theirs: Any = replay.sdk_async if asynchronous else replay.sdk_sync
    openai_client: Any = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    anthropic_client: Any = anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic
    openai_http = openai.DefaultAsyncHttpxClient if asynchronous else openai.DefaultHttpxClient
    anthropic_http = anthropic.DefaultAsyncHttpxClient if asynchronous else anthropic.DefaultHttpxClient
    timeout = replay.TIMEOUT

    class Clients(theirs):  # type: ignore[misc]
        @staticmethod
        def openai(row: Row, port: int) -> Any:
            url = replay.base(row, port, "/v1")
            http = openai_http(verify=tls)
            return openai_client(api_key="sk-test", base_url=url, max_retries=0, timeout=timeout, http_client=http)

        @staticmethod
        def anthropic(row: Row, port: int) -> Any:
            url = replay.base(row, port)
            http = anthropic_http(verify=tls)
            return anthropic_client(api_key="sk-test", base_url=url, max_retries=0, timeout=timeout, http_client=http)

    return Clients


@contextmanager
def scope(usd_limit: Decimal | None = None) -> Iterator[BudgetGuard]:
    """A budget scope of a client of its own, with the prices of the day."""
    client = Client()
    prices = PriceBook(now=lambda: PRICED_ON)
    client._parts = dataclasses.replace(client._parts, prices=prices)  # the clock is no setting of a client
    try:
        with client.run(), client.budget_guard(usd_limit=usd_limit) as budget:
            yield budget
    finally:
        client.close()


def search_fee(row: Row, expected: Row) -> Decimal:
    """What the web searches of an OpenAI answer cost: the expected figures are without them."""
    if row["provider"] != "openai" or "web_search_call" not in expected["shapes"]:
        return Decimal()
    calls = set(re.findall(r'"(ws_[0-9a-f]+)"', row["response_body"]))  # all of them searches, none opens a page
    price = PriceBook(now=lambda: PRICED_ON).price
    return price("openai", expected["model"], Usage(web_searches=len(calls))) or Decimal()


def known_differences() -> set[str]:
    """The ids of exchanges that are known to be counted otherwise, each with its reason in the file."""
    return set(re.findall(r"^\| `([^`]+)`", KNOWN_DIFFERENCES.read_text(encoding="utf-8"), re.MULTILINE))


@contextmanager
def traffic() -> Iterator[Traffic]:
    """The recordings, being served."""
    serve, replay = _shared("serve"), _shared("replay")
    exchanges = serve.load([TRAFFIC / "exchanges.jsonl"])
    errors = serve.load([TRAFFIC / "errors.jsonl"])
    with ExitStack() as stack:
        with warnings.catch_warnings():  # the server uses a form of handler that aiohttp no longer likes
            warnings.simplefilter("ignore", DeprecationWarning)
            port = stack.enter_context(serve.serving_in_thread(exchanges={**exchanges, **errors}))
        yield Traffic(port, replay, exchanges, errors)


def _shared(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"shared_traffic_{name}", TRAFFIC / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
