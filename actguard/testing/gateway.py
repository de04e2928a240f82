"""A local gateway: reserves, settles, takes events, and misbehaves when a test wants it to.

    with LoopbackGateway() as gateway:
        client = actguard.Client(gateway_url=gateway.url, api_key=gateway.api_key)
        with client.run(), client.budget_guard(usd_limit=1):
            ...
        client.close()
        assert gateway.reservations[0].settlements

It keeps its books as a real gateway should: a repeated Idempotency-Key has no second effect, an event id counts once.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from actguard.testing._gateway_server import GatewayServer, Reply, Request

T = TypeVar("T")

Operation = Literal["reserve", "settle", "events", "tariff"]
_PATHS: dict[str, Operation] = {
    "/api/v1/reserve": "reserve",
    "/api/v1/settle": "settle",
    "/api/v1/events": "events",
    "/api/v1/cu-tariff": "tariff",
}
WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How one request is answered, other than it should be. What is not said is as it should be.

    Example:
        Fault(status=503)
        Fault(status=429, headers={"Retry-After": "1"})
        Fault(body=b'{"reserve_id": "r')
        Fault(hang=True)
    """

    status: int | None = None
    body: bytes | Mapping[str, Any] | list[Any] | None = None
    """Bytes are sent as they are, anything else as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Seconds before the answer."""
    hang: bool = False
    """The request is accepted and never answered."""
    reset: bool = False
    """The connection is reset before the first byte."""
    cut_after: int | None = None
    """The connection is reset after so many bytes of the body."""
    drip_s: float = 0.0
    """Seconds between two bytes of the body."""
    effect: bool | None = None
    """Whether the gateway does what it was asked, although its answer is bad; None: unless it answers an error."""

    @property
    def takes_effect(self) -> bool:
        """Whether the request counts at the gateway."""
        if self.effect is not None:
            return self.effect
        return self.status is None or self.status < 300


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """One request, as the gateway saw it. The key of the account is not kept."""

    number: int
    operation: Operation | Literal["unknown"]
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case, without the Authorization."""
    body: Any
    """The JSON; None when there was none."""
    at: float
    """``time.monotonic()`` when it came in."""
    authorized: bool

    @property
    def key(self) -> str | None:
        """Its Idempotency-Key."""
        return self.headers.get("idempotency-key")


@dataclass(slots=True)
class Reservation:
    """A budget that was reserved, and what it was settled with: one entry, if all is well."""

    reserve_id: str
    body: Mapping[str, Any]
    settlements: list[Mapping[str, Any]] = field(default_factory=list)


class LoopbackGateway:
    """A gateway on 127.0.0.1, in a thread of its own.

    ``grants`` is added to every answer to a reserve (``{"usd_limit_micros": 50_000}``), ``tariff`` is what
    ``/api/v1/cu-tariff`` answers (404 without one), ``delay_s`` is how long every answer takes, ``tls`` makes it https.
    Without ``port`` a free one is found. It may be stopped and started again; its address and its books stay.
    """

    def __init__(
        self,
        *,
        api_key: str = "loopback-key",
        grants: Mapping[str, Any] | None = None,
        tariff: Mapping[str, Any] | None = None,
        delay_s: float = 0.0,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.api_key = api_key
        self.grants = dict(grants or {})
        self.tariff = tariff
        self.delay_s = delay_s
        self._scheme = "http" if tls is None else "https"
        self._server = GatewayServer(self._handle, tls, port)
        self._changed = threading.Condition()
        self._faults: dict[str, list[tuple[Fault, int | None]]] = {}
        self._answers: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[GatewayRequest] = []
        """Everything received, in order, repetitions included."""
        self.reservations: list[Reservation] = []
        self._named: dict[str, Reservation] = {}
        self.events: list[dict[str, Any]] = []
        """The envelopes that were accepted, each id once, in the order of their first arrival."""
        self._event_ids: set[str] = set()

    @property
    def url(self) -> str:
        """Its address, for ``Client(gateway_url=…)``."""
        return f"{self._scheme}://127.0.0.1:{self._server.port}"

    @property
    def running(self) -> bool:
        """True while it listens."""
        return self._server.running

    @property
    def connections(self) -> int:
        """How many connections were made to it."""
        return self._server.accepted

    def fail(self, operation: Operation, fault: Fault, times: int | None = None) -> None:
        """Answer the next ``times`` requests of this kind (all that come, when None) with ``fault``."""
        with self._changed:
            self._faults.setdefault(operation, []).append((fault, times))

    def heal(self) -> None:
        """Answer as one should from now on."""
        with self._changed:
            self._faults.clear()

    def received(self, operation: Operation) -> list[GatewayRequest]:
        """The requests of one kind, repetitions included."""
        return [request for request in tuple(self.requests) if request.operation == operation]

    def reservation(self, reserve_id: str) -> Reservation:
        """The reservation of this name. Raises: KeyError."""
        return self._named[reserve_id]

    def wait_for(self, predicate: Callable[[], T], timeout: float = WAIT_SECONDS) -> T:
        """Wait until ``predicate()`` is true, asked again after each request; its value. Blocks this thread.

        Raises:
            TimeoutError: not within ``timeout`` seconds, which are only a watchdog.
        """
        until = time.monotonic() + timeout
        with self._changed:
            while not (value := predicate()):
                if not self._changed.wait(until - time.monotonic()):
                    raise TimeoutError(f"Not reached within {timeout:g} s; requests so far: {self.requests}")
        return value

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    def _handle(self, request: Request) -> Reply:
        with self._changed:
            received = self._note(request)
            fault = self._next_fault(received.operation)
            if not received.authorized and received.operation != "tariff":
                status, answer = 401, {"error": "unauthorized"}
            elif fault is not None and not fault.takes_effect:
                status, answer = 200, {}
            else:
                status, answer = self._do(received)
            self._changed.notify_all()
        return self._reply(fault, status, answer)

    def _note(self, request: Request) -> GatewayRequest:
        headers = dict(request.headers)
        authorized = headers.pop("authorization", None) == f"Bearer {self.api_key}"
        try:
            body = json.loads(request.body) if request.body else None
        except ValueError:
            body = None
        received = GatewayRequest(
            len(self.requests) + 1,
            _PATHS.get(request.path, "unknown"),
            request.method,
            request.path,
            headers,
            body,
            time.monotonic(),
            authorized,
        )
        self.requests.append(received)
        return received

    def _next_fault(self, operation: str) -> Fault | None:
        waiting = self._faults.get(operation)
        if not waiting:
            return None
        fault, times = waiting[0]
        if times is not None:
            if times == 1:
                waiting.pop(0)
            else:
                waiting[0] = (fault, times - 1)
        return fault

    def _do(self, request: GatewayRequest) -> tuple[int, dict[str, Any]]:
        if request.operation == "tariff":
            return (200, dict(self.tariff)) if self.tariff is not None else (404, {"error": "no tariff"})
        done = self._answers.get((request.operation, request.key or ""))
        if done is not None and request.key:
            return 200, done
        body = request.body if isinstance(request.body, dict) else {}
        if request.operation == "reserve":
            answer = self._reserve(body)
        elif request.operation == "settle":
            try:
                self.reservation(str(body.get("reserve_id"))).settlements.append(body)
            except KeyError:
                return 404, {"error": "unknown reserve_id"}
            answer = {"status": "settled"}
        elif request.operation == "events":
            answer = self._take(body.get("events", []))
        else:
            return 404, {"error": "unknown address"}
        if request.key:
            self._answers[request.operation, request.key] = answer
        return 200, answer

    def _reserve(self, body: Mapping[str, Any]) -> dict[str, Any]:
        reservation = Reservation(f"reserve-{len(self.reservations) + 1}", body)
        self.reservations.append(reservation)
        self._named[reservation.reserve_id] = reservation
        return {"reserve_id": reservation.reserve_id, "status": "reserved", **self.grants}

    def _take(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        new = [event for event in events if event["id"] not in self._event_ids]
        self._event_ids.update(event["id"] for event in new)
        self.events.extend(new)
        return {"accepted": len(events)}

    def _reply(self, fault: Fault | None, status: int, answer: Mapping[str, Any]) -> Reply:
        proper = json.dumps(answer).encode()
        if fault is None:
            return Reply(status, proper, delay_s=self.delay_s)
        if fault.body is None:
            body = proper
        else:
            body = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
        return Reply(
            status if fault.status is None else fault.status,
            body,
            fault.headers,
            delay_s=fault.delay_s or self.delay_s,
            hang=fault.hang,
            reset=fault.reset,
            cut_after=fault.cut_after,
            drip_s=fault.drip_s,
        )
