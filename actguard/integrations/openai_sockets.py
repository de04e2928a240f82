"""Metering the WebSocket connections of the OpenAI SDK: Responses, realtime and, as far as they can be, the others.

The SDK's connection objects send and receive in several ways (typed and raw, queued, through lanes, by a thread of
their own), and all of them end in ``send``, ``recv`` and ``close`` of the one connection of the websockets library
below them. Those three are replaced on that one object as soon as the SDK's object is used; a connection that the SDK
makes anew after a loss gets them, too.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from socket import SHUT_RDWR
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from actguard.context import active_budget
from actguard.exceptions import ActGuardError, BudgetExceededError
from actguard.guards.budget import BudgetGuard
from actguard.integrations.degraded import NOT_COUNTED, report
from actguard.integrations.metering import Switch, question
from actguard.integrations.openai_live import TimedConversation
from actguard.integrations.openai_realtime_turns import RealtimeConversation
from actguard.integrations.openai_socket_meter import SocketMeter, is_closed, written
from actguard.integrations.openai_turns import Conversation, TurnExchange
from actguard.integrations.patching import Target, TargetsOf
from actguard.scope import step

_CONVERSATIONS: Mapping[str, type[Conversation]] = {
    "ResponsesConnection": Conversation,
    "RealtimeConnection": RealtimeConversation,
    "TranslationsConnection": TimedConversation,
    "LiveConnection": TimedConversation,
    "ForksConnection": TimedConversation,
}
_UNCOUNTED = {"SidebandConnection": "live sessions held elsewhere"}
_METER = "actguard_meter"
_attaching = threading.Lock()


def attach(connection: Any, switch: Switch) -> None:
    """Have the connection below an object of the SDK metered, if it is not. Costs a look when it is."""
    socket = getattr(connection, "_connection", None)
    if socket is None or not switch.applied or _METER in getattr(socket, "__dict__", ()):
        return
    try:
        with _attaching:  # one thread may send first while another receives
            if _METER not in vars(socket):
                _attach(connection, socket, switch)
    except Exception as problem:  # noqa: BLE001  the connection works without us
        report("meter a connection", "openai", problem, NOT_COUNTED)


def _attach(connection: Any, socket: Any, switch: Switch) -> None:
    meter = vars(connection).get(_METER)
    if meter is None:
        meter = vars(connection)[_METER] = _meter_for(connection, socket)
    else:
        meter.closed()  # the one before it was lost
    drive = _drive_async if inspect.iscoroutinefunction(type(socket).recv) else _drive
    vars(socket).update(drive(socket, meter, switch))
    vars(socket)[_METER] = meter


def _meter_for(connection: Any, socket: Any) -> SocketMeter:
    name = type(connection).__name__.removeprefix("Async")
    request = getattr(socket, "request", None)
    host = "" if request is None else str(request.headers.get("Host") or "")
    url = urlsplit(f"wss://{host}{'' if request is None else request.path}")
    query = parse_qs(url.query)
    model = next((query[name][0] for name in ("model", "deployment") if name in query), None)
    provider = "azure" if "azure" in (url.hostname or "") else "openai"
    make = _CONVERSATIONS.get(name)
    base_url = f"https://{host}/v1" if host else None
    conversation = None if make is None else make(provider, base_url, model)
    return SocketMeter(conversation, _UNCOUNTED.get(name), provider)


def _drive(socket: Any, meter: SocketMeter, switch: Switch) -> dict[str, Callable[..., Any]]:
    """The three methods of a connection that blocks."""
    kind: Any = type(socket)
    this: Callable[[], Any] = weakref.ref(socket)

    def send(message: Any, *args: Any, **kwargs: Any) -> Any:
        socket = this()
        if not switch.applied:
            return kind.send(socket, message, *args, **kwargs)
        budget: BudgetGuard | None = active_budget()
        if budget is not None and not budget.ready:
            budget.wait_ready()
        exchange = meter.sending(message, budget)
        if exchange is None or budget is None:
            return kind.send(socket, message, *args, **kwargs)
        asked = question(budget, exchange)
        ticket = step(budget.admit_in_turn(asked)) if budget.waits else budget.admit(asked)
        call = meter.admitted(budget, exchange, ticket)
        try:
            return kind.send(socket, _message(exchange, message), *args, **kwargs)
        except BaseException as error:
            meter.failed(call, error)
            raise

    def recv(*args: Any, **kwargs: Any) -> Any:
        socket = this()
        if (error := meter.due()) is not None:
            raise error
        try:
            message = kind.recv(socket, *args, **kwargs)
        except Exception as ended:
            if (crossing := _at_end(meter, ended)) is None:
                raise
            raise crossing from None
        command = meter.received(message) if switch.applied else None
        try:
            if command:
                kind.send(socket, written(command))
            elif command is not None:
                socket.socket.shutdown(SHUT_RDWR)  # closing it in form would wait for the server to listen
        except Exception as problem:  # noqa: BLE001  what arrived is still delivered
            meter.could_not_stop(problem)
        return message

    def close(*args: Any, **kwargs: Any) -> Any:
        try:
            return kind.close(this(), *args, **kwargs)
        finally:
            meter.closed()

    return {"send": send, "recv": recv, "close": close}


def _drive_async(socket: Any, meter: SocketMeter, switch: Switch) -> dict[str, Callable[..., Any]]:
    """`_drive` with an ``await`` in the right places."""
    kind: Any = type(socket)
    this: Callable[[], Any] = weakref.ref(socket)

    async def send(message: Any, *args: Any, **kwargs: Any) -> Any:
        socket = this()
        if not switch.applied:
            return await kind.send(socket, message, *args, **kwargs)
        budget: BudgetGuard | None = active_budget()
        if budget is not None and not budget.ready:
            await budget.await_ready()
        exchange = meter.sending(message, budget)
        if exchange is None or budget is None:
            return await kind.send(socket, message, *args, **kwargs)
        asked = question(budget, exchange)
        ticket = await budget.admit_in_turn(asked) if budget.waits else budget.admit(asked)
        call = meter.admitted(budget, exchange, ticket)
        try:
            return await kind.send(socket, _message(exchange, message), *args, **kwargs)
        except BaseException as error:
            meter.failed(call, error)
            raise

    async def recv(*args: Any, **kwargs: Any) -> Any:
        socket = this()
        if (error := meter.due()) is not None:
            raise error
        try:
            message = await kind.recv(socket, *args, **kwargs)
        except Exception as ended:
            if (crossing := _at_end(meter, ended)) is None:
                raise
            raise crossing from None
        command = meter.received(message) if switch.applied else None
        try:
            if command:
                await kind.send(socket, written(command))
            elif command is not None:
                socket.transport.abort()
        except Exception as problem:  # noqa: BLE001  what arrived is still delivered
            meter.could_not_stop(problem)
        return message

    async def close(*args: Any, **kwargs: Any) -> Any:
        try:
            return await kind.close(this(), *args, **kwargs)
        finally:
            meter.closed()

    return {"send": send, "recv": recv, "close": close}


def _message(exchange: TurnExchange, message: Any) -> Any:
    """What is sent: the caller's own message, unless a limit was put into it."""
    return written(exchange.event) if exchange.changed else message


def _at_end(meter: SocketMeter, ended: Exception) -> BudgetExceededError | None:
    """The crossing to raise where receiving raised ``ended``, when that is the connection's end and one is left."""
    if is_closed(ended):
        return meter.closed()
    return None  # a timeout: the connection goes on


def attaching(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """A method of the SDK's connection object that meters the connection first."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def method_async(connection: Any, *args: Any, **kwargs: Any) -> Any:
            attach(connection, switch)
            return await original(connection, *args, **kwargs)

        return method_async

    @functools.wraps(original)
    def method(connection: Any, *args: Any, **kwargs: Any) -> Any:
        attach(connection, switch)
        return original(connection, *args, **kwargs)

    return method


def lane_send(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Sending through a lane of a Responses session: a refusal leaves the lane as it was."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def send_async(lane: Any, *args: Any, **kwargs: Any) -> Any:
            before = _in_flight(lane, switch)
            try:
                return await original(lane, *args, **kwargs)
            except ActGuardError:
                lane._state.in_flight = before
                raise

        return send_async

    @functools.wraps(original)
    def send(lane: Any, *args: Any, **kwargs: Any) -> Any:
        before = _in_flight(lane, switch)
        try:
            return original(lane, *args, **kwargs)
        except ActGuardError:
            lane._state.in_flight = before
            raise

    return send


def _in_flight(lane: Any, switch: Switch) -> bool:
    """Whether a lane has an answer on its way. Its connection is metered, and read by the session."""
    try:
        connection = lane._session.connection
        attach(connection, switch)
        if (meter := vars(connection).get(_METER)) is not None:
            meter.quiet = True
        return bool(lane._state.in_flight)
    except Exception as problem:  # noqa: BLE001  another version's lanes work without us
        report("meter a connection", "openai", problem, NOT_COUNTED)
        return False


def connection_targets(module: ModuleType) -> Iterator[Target]:
    """What to wrap in a module that defines connections: how they send, receive and flush what was queued."""
    for owner in vars(module).values():
        if not isinstance(owner, type) or owner.__module__ != module.__name__:
            continue
        if owner.__name__.endswith(("Connection", "ConnectionBase")):
            for name in ("send", "recv_bytes", "_send", "_flush_send_queue"):
                if name in vars(owner):
                    yield Target(owner, name, attaching)
        elif owner.__name__.endswith("ResponsesWebSocketLane"):
            yield Target(owner, "send", lane_send)


_RESOURCES = ("responses.responses", "realtime.realtime", "realtime.translations.translations")
_LIVE = ("live.live", "live.sideband", "live.forks")
MODULES: dict[str, TargetsOf] = {
    "openai._websocket_connection": connection_targets,
    "openai.lib.responses_websocket._session": connection_targets,
    **{f"openai.resources.{name}": connection_targets for name in (*_RESOURCES, *_LIVE)},
    "openai.resources.beta.responses.responses": connection_targets,
    "openai.resources.beta.realtime.realtime": connection_targets,
}
"""The modules of the SDK that define connections, in whichever version has them."""
