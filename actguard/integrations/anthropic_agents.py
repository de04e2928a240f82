"""Anthropic's managed agents and dreams: work at the provider, started by a call and counted when it is looked at.

    POST sessions, sessions/…/events, deployments/…/run, dreams   starts work, with a hold until it shows
    GET  sessions/…, dreams/… (and what else returns one)         the total so far: what is new is charged
    GET  sessions/…/events, …/events/stream                       the usage of each of its steps, each charged once

The time that a session runs is billed, too, and has no known price.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from actguard.integrations.anthropic_request import provider_of
from actguard.integrations.anthropic_usage import field, price_context, read_usage
from actguard.integrations.items import meter_items
from actguard.integrations.metering import FREE, Bill, Bound, Outcome, Request, Settlement
from actguard.integrations.prompts import estimated_input
from actguard.integrations.running_totals import RunningTotals, running_totals
from actguard.integrations.stainless import StainlessExchange, path_of
from actguard.integrations.streams import StreamMeter, StreamReader

API = "managed_agents"
RUNTIME = "runtime of managed agents"
UNBOUNDED = "an agent at the provider works on by itself"
_PATHS = re.compile(
    r"(?:^|/)v1/(?:"
    r"(?P<new>sessions|dreams)"
    r"|deployments/[^/]+/(?P<run>run)"
    r"|sessions/(?P<heard>[^/]+)(?:/threads/[^/]+)?/events(?P<stream>/stream)?"
    r"|(?:sessions|dreams)/(?P<seen>[^/]+)(?:/archive|/cancel)?"
    r")$"
)


class AgentExchange(StainlessExchange):
    """A request about work at the provider."""

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], work_id: str | None) -> None:
        super().__init__(client, args, kwargs)
        client_class: Any = type(client)
        self.provider = provider_of(client_class)
        self.work_id = work_id
        self._totals: RunningTotals = running_totals.here()
        self._settlement: Settlement | None = None

    def answer(self, result: Any, settlement: Settlement) -> Any:
        self._settlement = settlement
        return super().answer(result, settlement)

    def bill(self, answer: Any) -> Bill | None:
        return None

    def reader(self) -> StreamReader:
        return EventsReader(self)

    def look(self, answer: Any) -> None:
        """Charge what an answer says about work: a session or a dream, an event of one, or a page of events."""
        kind, work_id = field(answer, "type"), field(answer, "id")
        if kind in ("session", "dream") and isinstance(work_id, str):
            self._note_model(work_id, answer)
            self._note_total(work_id, field(answer, "usage"))
        elif kind == "session.usage" and self.work_id is not None:
            self._note_total(self.work_id, field(answer, "usage"))
        elif kind == "span.model_request_end" and self.work_id is not None and isinstance(work_id, str):
            usage = read_usage(field(answer, "model_usage"))
            if usage is not None and self._settlement is not None:
                self._totals.step(self._settlement, self.work_id, work_id, usage)
        elif isinstance(events := field(answer, "data"), list) and self.work_id is not None:
            for event in events:
                self.look(event)

    def _note_model(self, work_id: str, answer: Any) -> None:
        agent = field(answer, "agent")
        config = field(agent, "model") or field(answer, "model")
        model = config if isinstance(config, str) else field(config, "id")
        work = self._totals.of(work_id)
        if isinstance(model, str) and model:
            work.model, work.context = model, price_context(config)
        work.mixed = bool(field(agent, "multiagent") or field(agent, "advisor"))

    def _note_total(self, work_id: str, block: Any) -> None:
        usage = read_usage(block)
        if usage is not None and self._settlement is not None:
            self._totals.total(self._settlement, work_id, usage)


class StartedWork(AgentExchange):
    """A request that has an agent work."""

    uncounted = RUNTIME

    def request(self) -> Request:
        config = self.body.get("model")
        named = config if isinstance(config, str) else field(config, "id")
        known = self._totals.of(self.work_id).model if self.work_id else "unknown"
        said = [self.body.get(name) for name in ("events", "initial_events", "instructions")]
        return Request(
            model=named if isinstance(named, str) and named else known,
            api=API,
            estimate=estimated_input(said, lambda part: None),
        )

    def bound(self) -> Bound | None:
        return Bound(0, unbounded=UNBOUNDED)

    def without_usage(self, answer: Any) -> Outcome:
        self.look(answer)
        work_id = self.work_id or field(answer, "session_id") or field(answer, "id")
        if isinstance(work_id, str) and self._settlement is not None:
            self._totals.started(self._settlement, work_id)
        return FREE


class SeenWork(AgentExchange):
    """Work that is looked at."""

    refusable = False

    def request(self) -> Request:
        return Request(model="unknown", api=API, stream=self.streams, output_limit=0)

    def failure(self, error: BaseException) -> Outcome:
        return FREE

    def without_usage(self, answer: Any) -> Outcome:
        self.look(answer)
        return FREE

    def _meter_stream(self, stream: Any, settlement: Settlement) -> None:
        meter_items(stream, stream.response, "__stream__", EventsMeter(self.reader(), settlement, stream))


class EventsReader(StreamReader):
    """Charges each step as its event comes; the listening itself costs nothing."""

    tells_progress = False

    def __init__(self, exchange: AgentExchange) -> None:
        self._exchange = exchange

    def feed(self, item: Any) -> bool:
        self._exchange.look(item)
        return True

    def bill(self, complete: bool) -> Outcome:
        return FREE


class EventsMeter(StreamMeter):
    """Ends a stream of events with the one whose charge crossed a limit: the next may be long in coming."""

    __slots__ = ()

    def received(self, item: Any) -> bool:
        deliver = super().received(item)
        if self._crossing is None and (crossing := self._settlement.take_error()) is not None:
            self._crossing = crossing
            self._cut = self.must_close = True
        return deliver


def agent_exchange(
    client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str, options: Any
) -> AgentExchange | None:
    """An exchange for a request about work at the provider; None for any other, and for what it cannot say."""
    found = _PATHS.search(path_of(options))
    if found is None or method not in ("get", "post"):
        return None
    if method == "post" and (found["new"] == "dreams" or found["run"]):
        return StartedWork(client, args, kwargs, None)
    if method == "post" and (found["new"] or found["heard"]):
        said = options.json_data.get("initial_events" if found["new"] else "events") if _is_json(options) else None
        kind = StartedWork if _has_it_work(said) else SeenWork
        return kind(client, args, kwargs, found["heard"])
    work_id = found["heard"] or found["seen"]
    return None if work_id is None else SeenWork(client, args, kwargs, work_id)


def _is_json(options: Any) -> bool:
    return isinstance(options.json_data, Mapping)


def _has_it_work(events: Any) -> bool:
    """False for nothing, and for telling an agent to stop, which works over budget."""
    listed = events if isinstance(events, list | tuple) else ()
    return any(field(event, "type") != "user.interrupt" for event in listed)
