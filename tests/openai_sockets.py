"""A local server that speaks OpenAI's WebSocket APIs: it answers each event as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from conftest import until
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

Event = dict[str, Any]
LOSE: Event = {"type": "lose"}
"""In the place of an event: the connection breaks without a goodbye."""
CLOSE: Event = {"type": "close"}
"""In the place of an event: the server closes the connection."""


@dataclass
class SocketServer:
    """What the server has received, and how it answers."""

    answer: Callable[[Event], Iterable[Event]]
    greeting: tuple[Event, ...] = ()
    url: str = ""
    received: list[Event] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0

    def types(self) -> list[str]:
        """The types of what was received."""
        return [event["type"] for event in self.received]

    def arrive(self, *_: object) -> None:
        """A connection is asked for: it counts before its client can go on."""
        self.open_connections += 1

    def handle(self, socket: ServerConnection) -> None:
        """One connection."""
        self.connections += 1
        try:
            self._send(socket, self.greeting)
            for message in socket:
                event = json.loads(message)
                self.received.append(event)
                self._send(socket, self.answer(event))
        except (ConnectionClosed, OSError):
            return
        finally:
            self.open_connections -= 1

    @staticmethod
    def _send(socket: ServerConnection, events: Iterable[Event]) -> None:
        for event in events:
            if event is LOSE:
                socket.close_socket()
                return
            if event is CLOSE:
                socket.close()
                return
            socket.send(json.dumps(event))


@contextmanager
def socket_server(answer: Callable[[Event], Iterable[Event]], *greeting: Event) -> Iterator[SocketServer]:
    """A running server; its ``url`` is the ``base_url`` of a client."""
    here = SocketServer(answer, greeting)
    with serve(here.handle, "127.0.0.1", 0, process_request=here.arrive) as server:
        here.url = f"http://127.0.0.1:{server.socket.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield here
            until(lambda: not here.open_connections)  # what was sent last has arrived
        finally:
            server.shutdown()
            thread.join()


def usage(input_tokens: int = 1_000, output_tokens: int = 50, cached: int = 0) -> Event:
    """A usage block of the Responses API."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def response(response_id: str, status: str, model: str = "gpt-4o-mini", **more: Any) -> Event:
    """A response object."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": 0,
        "model": model,
        "status": status,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
        **more,
    }


def answering(
    response_id: str, *texts: str, end: str = "completed", lane: str | None = None, **more: Any
) -> list[Event]:
    """The events of an answer over the Responses WebSocket."""
    place: Event = {} if lane is None else {"stream_id": lane}
    events = [{"type": "response.created", "response": response(response_id, "in_progress"), **place}]
    events += [
        {
            "type": "response.output_text.delta",
            "delta": text,
            "item_id": "m",
            "output_index": 0,
            "content_index": 0,
            **place,
        }
        for text in texts
    ]
    if end:
        last = response(response_id, end, **{"usage": usage(), **more})
        events.append({"type": f"response.{end}", "response": last, **place})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]
