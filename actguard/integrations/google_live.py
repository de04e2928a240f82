"""Google's Live API: ``client.aio.live.connect``, a conversation over a WebSocket.

A turn is a call: what is sent for it opens one in the budget scope that is active then (else in that of the
connection), and is refused when the budget is full. The server reports usage once per turn, the whole conversation so
far as its prompt each time, which is what is billed; where it reports while a turn goes on, a report that only
continues the one before takes its place. A turn without a report is charged as estimated when the session ends.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from actguard.context import Process, active_budget, note_uncounted_call
from actguard.integrations.degraded import report
from actguard.integrations.google_live_meter import PROVIDER, LiveMeter, admitted
from actguard.integrations.metering import Switch
from actguard.integrations.patching import Target, TargetsOf
from actguard.money.usage import Usage

_meters: WeakKeyDictionary[Any, LiveMeter] = WeakKeyDictionary()


def _meter_of(session: Any) -> LiveMeter:
    """The meter of a session; a session that was opened before anything was patched does not tell its model."""
    meter = _meters.get(session)
    if meter is None:
        meter = _meters[session] = LiveMeter("unknown", None)
    return meter


def _connect(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    @functools.wraps(original)
    @contextlib.asynccontextmanager
    async def connect(live: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        budget, model = active_budget(), str(kwargs.get("model", "unknown"))
        if not switch.applied:
            budget = None
        elif budget is not None:
            meter = LiveMeter(model, budget)
            (await admitted(budget, meter.model, Usage())).release()  # a full budget opens no session
        elif Process.open_roots:
            note_uncounted_call(PROVIDER)
        async with original(live, *args, **kwargs) as session:
            meter = _meters[session] = LiveMeter(model, budget)
            try:
                yield session
            finally:
                meter.end()

    return connect


def _send(original: Callable[..., Awaitable[Any]], switch: Switch) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(original)
    async def send(session: Any, *args: Any, **kwargs: Any) -> Any:
        if switch.applied and Process.open_roots:
            await _meter_of(session).send([*args, *kwargs.values()])
        return await original(session, *args, **kwargs)

    return send


def _receive(original: Callable[..., Awaitable[Any]], switch: Switch) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(original)
    async def receive(session: Any) -> Any:
        meter = _meters.get(session)
        if meter is None or not switch.applied:
            return await original(session)
        meter.waiting()
        message = await original(session)
        try:
            if not meter.received(message):
                await session.close()
        except Exception as problem:  # noqa: BLE001  the message is delivered whatever our reading does
            report("read a live session", PROVIDER, problem)
        return message

    return receive


def _turn(original: Callable[..., AsyncIterator[Any]], switch: Switch) -> Callable[..., AsyncIterator[Any]]:
    """The messages of one turn: a crossing is raised where the turn ends."""

    @functools.wraps(original)
    async def receive(session: Any) -> AsyncIterator[Any]:
        async for message in original(session):
            yield message
        meter = _meters.get(session)
        if meter is not None and switch.applied:
            meter.waiting()

    return receive


SENDING = ("send", "send_client_content", "send_realtime_input", "send_tool_response")


def _targets(module: ModuleType) -> list[Target]:
    session = module.AsyncSession
    sends = [Target(session, name, _send) for name in SENDING if name in vars(session)]
    return [
        *sends,
        Target(module.AsyncLive, "connect", _connect),
        Target(session, "_receive", _receive),
        Target(session, "receive", _turn),
    ]


def _music(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Nothing reports what music costs."""

    @functools.wraps(original)
    def connect(live: Any, *args: Any, **kwargs: Any) -> Any:
        if switch.applied and (budget := active_budget()) is not None:
            budget.note_uncounted(PROVIDER, "live music sessions")
        return original(live, *args, **kwargs)

    return connect


MODULES: dict[str, TargetsOf] = {
    "google.genai.live": _targets,
    "google.genai.live_music": lambda module: [Target(module.AsyncLiveMusic, "connect", _music)],
}
