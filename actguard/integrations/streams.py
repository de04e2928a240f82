"""Metering an answer while it is read.

A `StreamReader`, written per provider, reads each chunk along and knows at any time what was used so far. A
`StreamMeter` ties it to the call's settlement: it settles exactly once, at the end, on an error, when the stream is
closed or dropped, and asks the budget now and then whether to go on. `MeteredIterator` and `MeteredAsyncIterator` drive
it; they differ by their ``await``.

The caller gets the SDK's own stream object; only the iterator inside it is ours.
"""

from __future__ import annotations

import contextlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from actguard.exceptions import BudgetExceededError
from actguard.guards.charging import STANDARD, PriceContext
from actguard.integrations.degraded import report
from actguard.integrations.metering import Bill, Outcome, Settlement, Unknown
from actguard.locks import when_safe
from actguard.money.usage import Usage

NEVER = 2**62


class StreamReader(ABC):
    """Reads one streamed answer, chunk by chunk. Never waits; `feed` runs for every chunk, so it does little."""

    output_seen: int = 0
    """Output tokens so far, roughly, and rather too many. Only grows; decides when the budget is asked again."""
    tells_progress: bool = True
    """False when nothing is known before the end: the budget is not asked meanwhile."""

    @abstractmethod
    def feed(self, item: Any) -> bool:
        """Read one chunk along; False when the caller must not see it (it exists because we asked for it)."""

    @abstractmethod
    def bill(self, complete: bool) -> Outcome:
        """What the answer costs as far as it was read. ``complete``: the stream came to its end.

        Marked as estimated unless the provider's final figure was seen. `Unknown` when nothing can be said.
        """

    @property
    def text(self) -> str | None:
        """The text received so far; None where the answer is one piece, and not a stream."""
        return ""

    def so_far(self) -> Usage:
        """What has been used so far, as far as known."""
        bill = self.bill(complete=False)
        return bill.usage if isinstance(bill, Bill) else Usage()

    def at_least(self) -> Usage:
        """What has been used so far for certain: a stream is closed by what it did use, not by a guess."""
        return self.so_far()

    def contexts(self) -> tuple[PriceContext, ...]:
        """The price contexts that may apply to the answer, the likeliest first: the cheapest decides on a cut."""
        bill = self.bill(complete=False)
        return (bill.context,) if isinstance(bill, Bill) else STANDARD

    def crossing(self) -> None:  # noqa: B027  most readers have nothing to do
        """A crossing will be raised where the caller expects the next chunk or the end."""


class StreamMeter:
    """One stream between its chunks and its settlement: everything about it that does not wait."""

    __slots__ = (
        "__weakref__",
        "_broken",
        "_crossing",
        "_cut",
        "_due",
        "_failure",
        "_open",
        "_reader",
        "_settlement",
        "_subject",
        "busy",
        "must_close",
    )

    def __init__(
        self,
        reader: StreamReader,
        settlement: Settlement,
        subject: object = None,
        failure: Callable[[BaseException], Outcome] | None = None,
    ) -> None:
        """``subject`` is what the caller holds: the ``.response`` of a crossing, kept weakly so that it can be dropped.

        ``failure`` judges an error before the first chunk, for streams that send their request only then.
        """
        self._subject = None if subject is None else weakref.ref(subject)
        self._reader = reader
        self._settlement = settlement
        self._failure = failure
        self._crossing: BudgetExceededError | None = None
        self._cut = False
        self._due = 0 if reader.tells_progress else NEVER
        self._broken = False
        self._open = True
        self.busy = False
        """A chunk is being fetched: what closes the stream now is its own end."""
        self.must_close = False
        """A limit was reached: close the stream at the provider, then go on delivering what has arrived."""
        if reader.tells_progress:
            settlement.watch(self._so_far)

    @property
    def over(self) -> bool:
        """The stream has ended and is settled."""
        return not self._open

    def received(self, item: Any) -> bool:
        """Note one chunk; False when the caller must not see it."""
        try:
            deliver = self._reader.feed(item)
        except Exception as problem:  # noqa: BLE001  the chunk is delivered whatever our reading does
            self._broken = True
            report("read a stream", self._settlement.provider, problem)
            return True
        self._failure = None
        if self._reader.output_seen >= self._due and not self._cut:
            self._ask()
        return deliver

    def ended(self, error: BaseException, stop: type[Exception]) -> Exception | None:
        """The iteration ended with ``error`` (its regular end, a ``stop``, is one, too): settle.

        Returns what to raise instead: a crossing, or the regular end of a stream that was cut without one.
        """
        regular = isinstance(error, stop)
        if self._open:
            self._open = False
            if self._failure is not None and not regular:
                self._settlement.settle(self._failure(error))
            else:
                self._settle_bill(complete=regular and not self._cut)
        if not (regular or (self._cut and isinstance(error, Exception))):
            return None  # the user gets the stream's own error, a cancellation above all
        crossing = self._crossing or self._settlement.take_error()
        self._crossing = None
        if crossing is None:
            return None if regular else stop()
        crossing.partial = self._reader.text
        crossing.response = None if self._subject is None else self._subject()
        self._reader.crossing()
        return crossing

    def could_not_close(self, problem: Exception) -> None:
        """Closing the stream at a limit failed: what arrived is still delivered."""
        report("close a stream", self._settlement.provider, problem)

    def closed(self) -> None:
        """The stream was closed or dropped before its end: settle what was seen."""
        if self._open and not self.busy:
            self._open = False
            self._settle_bill(complete=False)

    # --- inside -------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        at_least = self._asked(self._reader.at_least)
        so_far = _raised_to(self._asked(self._reader.so_far), at_least)
        self._crossing, tokens = self._settlement.check(so_far, at_least, self._contexts())
        self._cut = self.must_close = tokens == 0
        self._due = self._reader.output_seen + tokens

    def _so_far(self) -> Usage:
        return _raised_to(self._asked(self._reader.so_far), self._asked(self._reader.at_least))

    def _asked(self, usage: Callable[[], Usage]) -> Usage:
        try:
            return usage()
        except Exception as problem:  # noqa: BLE001  asked from inside the budget: it must get an answer
            report("read a stream", self._settlement.provider, problem)
            return Usage()

    def _contexts(self) -> tuple[PriceContext, ...]:
        try:
            return self._reader.contexts()
        except Exception as problem:  # noqa: BLE001  a limit is asked about all the same
            report("read a stream", self._settlement.provider, problem)
            return STANDARD

    def _settle_bill(self, complete: bool) -> None:
        try:
            bill: Outcome = self._reader.bill(complete and not self._broken)
            if isinstance(bill, Bill) and bill.estimated and self._reader.tells_progress:
                bill = bill._replace(usage=_raised_to(bill.usage, self._reader.at_least()))
        except Exception as problem:  # noqa: BLE001  the answer arrived; its cost is estimated
            report("read a stream", self._settlement.provider, problem)
            bill = Unknown()
        self._settlement.settle(bill)


def _raised_to(estimate: Usage, at_least: Usage) -> Usage:
    """``estimate`` with no less output than is certain: what closed a stream is charged, too."""
    missing = at_least.output_tokens - estimate.output_tokens
    return estimate if missing <= 0 else estimate._replace(output_tokens=at_least.output_tokens)


class _Metered:
    """What the two iterators share: settling when dropped."""

    __slots__ = ("__weakref__", "_close", "_meter", "_source")

    _meter: StreamMeter

    @property
    def over(self) -> bool:
        """The stream has ended and is settled."""
        return self._meter.over

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # interpreter shutdown: modules may be gone
            when_safe(self._meter.closed)


class MeteredIterator(_Metered):
    """Passes the chunks of ``source`` on and meters them. ``close`` closes the stream at the provider."""

    __slots__ = ()

    def __init__(self, source: Iterator[Any], meter: StreamMeter, close: Callable[[], object]) -> None:
        self._source = source
        self._meter = meter
        self._close = close

    def __iter__(self) -> MeteredIterator:
        return self

    def __next__(self) -> Any:
        meter = self._meter
        while True:
            meter.busy = True
            try:
                item = next(self._source)
            except BaseException as error:
                if (instead := meter.ended(error, StopIteration)) is None:
                    raise
                raise instead from None
            finally:
                meter.busy = False
            deliver = meter.received(item)
            if meter.must_close:
                self._cut()
            if deliver:
                return item

    def close(self) -> None:
        """Close the stream at the provider and settle."""
        try:
            self._close()
        finally:
            self._meter.closed()

    def _cut(self) -> None:
        self._meter.must_close = False
        self._meter.busy = True
        try:
            self._close()
        except Exception as problem:  # noqa: BLE001  what arrived is still delivered
            self._meter.could_not_close(problem)
        finally:
            self._meter.busy = False


class MeteredAsyncIterator(_Metered):
    """`MeteredIterator` for an async stream."""

    __slots__ = ()

    def __init__(self, source: AsyncIterator[Any], meter: StreamMeter, close: Callable[[], Awaitable[object]]) -> None:
        self._source = source
        self._meter = meter
        self._close = close

    def __aiter__(self) -> MeteredAsyncIterator:
        return self

    async def __anext__(self) -> Any:
        meter = self._meter
        while True:
            meter.busy = True
            try:
                item = await self._source.__anext__()
            except BaseException as error:
                if (instead := meter.ended(error, StopAsyncIteration)) is None:
                    raise
                raise instead from None
            finally:
                meter.busy = False
            deliver = meter.received(item)
            if meter.must_close:
                await self._cut()
            if deliver:
                return item

    async def aclose(self) -> None:
        """Close the stream at the provider and settle."""
        try:
            await self._close()
        finally:
            self._meter.closed()

    async def _cut(self) -> None:
        self._meter.must_close = False
        self._meter.busy = True
        try:
            await self._close()
        except Exception as problem:  # noqa: BLE001  what arrived is still delivered
            self._meter.could_not_close(problem)
        finally:
            self._meter.busy = False
