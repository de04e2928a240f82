"""How far many calls at once go over a limit, on the provider's own bill."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from actguard.money.prices import PriceBook
from actguard.money.usage import Usage
from actguard.testing import Answer, LoopbackProvider, ReceivedRequest
from actguard.testing.gateway import LoopbackGateway
from benchmarks.compare import Worker, workers
from benchmarks.figures import Absent, Figure, Result

MODEL = "gpt-4o-mini"
AT_ONCE = (1, 20, 500)
MEAN = 200
"""Output tokens of an answer, on average."""
PACE = 4_000
"""Output tokens a second, in plain answers."""
LIMITED: dict[str, Any] = {"max_tokens": 1_000}
_RATES = {"input_cu_per_1k": 1_000, "output_cu_per_1k": 1_000, "cached_cu_per_1k": 1_000}
TARIFF: dict[str, Any] = {
    "tariff_version": "1",
    "cu_per_usd": 1_000,
    "registry_version": "1",
    "llm": {"default": _RATES, "providers": {"openai": {"models": {MODEL: _RATES}}}},
    "tools": {},
}
"""A cost unit for each token."""
Lengths = Callable[[random.Random], float]
EVEN: Lengths = lambda chance: chance.uniform(100, 300)  # noqa: E731
SKEWED: Lengths = lambda chance: min(chance.expovariate(1 / MEAN), 1_000)  # noqa: E731
LONGER: Lengths = lambda chance: 1_500  # noqa: E731


class Bill(NamedTuple):
    """What the provider has on its invoice."""

    usd: Decimal
    tokens: int
    dearest: int
    """Tokens of the call that had most."""
    counts: dict[str, int]

    def calls_over(self, limit: int) -> float:
        """How far the bill exceeds ``limit`` tokens, in calls: the dearest of them."""
        return max(self.tokens - limit, 0) / max(self.dearest, 1)


def main(quick: bool) -> Iterator[Result]:
    with LoopbackProvider() as provider, workers("now") as (now,):
        for stream in (False, True):
            for tasks in AT_ONCE[:2] if quick and stream else AT_ONCE:
                yield _hard(now, provider, tasks, stream)
        for stream in (False, True):
            for tasks in AT_ONCE[:2] if quick and stream else AT_ONCE:
                yield _soft(now, provider, tasks, stream, "answers of 100 to 300 tokens", EVEN, LIMITED, 1.0)
        for title, lengths, asked, target in (
            ("exponential answers", SKEWED, LIMITED, 1.0),
            ("the same, no max_tokens", SKEWED, {}, 1.0),
            ("1,500 tokens from a model not heard of yet, no max_tokens", LONGER, {}, None),
        ):
            yield _soft(now, provider, 20 if quick else 500, False, title, lengths, asked, target)
    yield from _beside(quick)


def _hard(worker: Worker, provider: LoopbackProvider, tasks: int, stream: bool) -> Figure:
    limit = Decimal("0.00013") * max(tasks // 4, 3)
    limits = {"usd_limit": str(limit), "enforcement": "hard", "on_crossing": "return"}
    bill = _billed(worker, provider, tasks, stream, EVEN, limits, LIMITED)
    over = max(bill.usd - limit, Decimal())
    used = f"{min(bill.usd / limit, Decimal(1)):.0%} of the limit used by {bill.counts['answered']} calls"
    return Figure(f"hard: {_title(tasks, stream)}: over", float(over), "USD", target=0.0, note=used)


def _soft(
    worker: Worker,
    provider: LoopbackProvider,
    tasks: int,
    stream: bool,
    title: str,
    lengths: Lengths,
    asked: dict[str, Any],
    target: float | None,
) -> Figure:
    limit = (MEAN + 20) * max(tasks // 2, 3)
    bill = _billed(worker, provider, tasks, stream, lengths, {"token_limit": limit}, asked)
    return _over(f"soft: {_title(tasks, stream)}, {title}", bill, limit, target)


def _beside(quick: bool) -> Iterator[Result]:
    """The same calls with ActGuard 1.0.2, which knows cost units by a gateway's tariff only, and so with both."""
    with LoopbackProvider() as provider, LoopbackGateway(api_key="none", tariff=TARIFF) as gateway:
        for environment, who in (("now", "soft"), ("earlier", "actguard 1.0.2")):
            try:
                with workers(environment) as (worker,):
                    for stream in (False,) if quick else (False, True):
                        for tasks in AT_ONCE[:2] if quick or stream else AT_ONCE:  # 1.0.2 reads 500 streams in minutes
                            limit = (MEAN + 20) * max(tasks // 2, 3)
                            limits = {"cost_limit": limit}
                            bill = _billed(worker, provider, tasks, stream, EVEN, limits, LIMITED, gateway.url)
                            target = 1.0 if environment == "now" else None
                            yield _over(f"{who}, cost units by tariff: {_title(tasks, stream)}", bill, limit, target)
            except RuntimeError as error:
                yield Absent(who, str(error))


def _over(name: str, bill: Bill, limit: int, target: float | None) -> Figure:
    used = f"{min(bill.tokens / limit, 1):.0%} of the limit used by {bill.counts['answered']} calls"
    if bill.counts["failed"]:
        used += f", {bill.counts['failed']} tasks ended in another error"
    return Figure(f"{name}: over", bill.calls_over(limit), "calls", target=target, note=used)


def _billed(
    worker: Worker,
    provider: LoopbackProvider,
    tasks: int,
    stream: bool,
    lengths: Lengths,
    limits: dict[str, Any],
    asked: dict[str, Any],
    gateway: str | None = None,
) -> Bill:
    chance = random.Random(tasks)

    def answer(_request: ReceivedRequest) -> Answer:
        tokens = max(int(lengths(chance)), 1)
        return Answer(generate=tokens, delay=0.0 if stream else tokens / PACE)

    provider.reset()
    provider.script(answer)
    options = {"stream": stream, "limits": limits, "asked": asked, "gateway": gateway}
    case = worker.case("overshoot_calls:crowd", url=provider.openai_url, **options)
    counts = case.run(tasks)
    case.drop()
    with contextlib.suppress(TimeoutError):  # a stream that its client has forgotten goes on: it is billed as far
        provider.wait_for_sync(lambda: all(request.done for request in provider.requests))
    billed = [request for request in provider.requests if request.billed]
    return Bill(
        usd=sum((_price(request) for request in billed), Decimal()),
        tokens=sum(request.input_tokens + request.output_tokens for request in billed),
        dearest=max((request.input_tokens + request.output_tokens for request in billed), default=0),
        counts=counts,
    )


_PRICES = PriceBook()


def _price(request: ReceivedRequest) -> Decimal:
    usage = Usage(uncached_input_tokens=request.input_tokens, output_tokens=request.output_tokens)
    return _PRICES.price("openai", MODEL, usage) or Decimal()


def _title(tasks: int, stream: bool) -> str:
    return f"{tasks} {'stream' if stream else 'call'}{'s' if tasks > 1 else ''} at once"
