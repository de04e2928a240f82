"""The queue of scripted replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import get_args

from actguard.testing._routes import APIS
from actguard.testing.answers import Answer, Failure, Reply, ReplyFunction
from actguard.testing.received import Provider, ReceivedRequest

Scripted = Reply | str | ReplyFunction

REPLIES = "an Answer, a Failure, Hang(), Reset(), a text or a function"


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One reply and the requests that it is meant for.

    Raises: TypeError, ValueError for what no request could be answered with or would match; they name the field.
    """

    reply: Scripted
    provider: Provider | None
    api: str | None
    model: str | None
    when: Callable[[ReceivedRequest], object] | None

    def __post_init__(self) -> None:
        check_scripted(self.reply, "script: a reply")
        for field, value, known in (("provider", self.provider, get_args(Provider)), ("api", self.api, APIS)):
            if value is not None and value not in known:
                raise ValueError(f"script({field}={value!r}): must be one of {', '.join(known)}")
        if self.model is not None and not isinstance(self.model, str):
            raise TypeError(f"script(model={self.model!r}): must be a text")
        if self.when is not None and not callable(self.when):
            raise TypeError(f"script(when={self.when!r}): must be a function of the request")

    def matches(self, request: ReceivedRequest, free: bool) -> bool:
        """The request may be answered with this line; free operations only where the line names them."""
        return (
            (self.api == request.api if self.api is not None else not free)
            and self.provider in (None, request.provider)
            and self.model in (None, request.model)
            and (self.when is None or bool(self.when(request)))
        )


class Script:
    """Replies in the order in which they were scripted. A reply is used once, a function stays."""

    def __init__(self, default: Scripted | None) -> None:
        self._lock = threading.Lock()
        self._lines: list[Line] = []
        if default is not None:
            check_scripted(default, "LoopbackProvider: default")
        self._default = default

    @property
    def pending(self) -> int:
        """Replies not used yet; functions do not count."""
        with self._lock:
            return sum(not callable(line.reply) for line in self._lines)

    def add(self, lines: Iterable[Line]) -> None:
        """Append lines."""
        with self._lock:
            self._lines.extend(lines)

    def clear(self) -> None:
        """Forget everything but the default."""
        with self._lock:
            self._lines.clear()

    def take(self, request: ReceivedRequest, free: bool) -> Reply | None:
        """The reply to a request: the first line that matches and has one, else the default."""
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            if not line.matches(request, free):
                continue
            if callable(line.reply):
                reply = as_reply(line.reply, request)
                if reply is not None:
                    return reply
            elif self._use(line):
                return as_reply(line.reply, request)
        return None if free or self._default is None else as_reply(self._default, request)

    def _use(self, line: Line) -> bool:
        with self._lock:
            if line not in self._lines:
                return False
            self._lines.remove(line)
            return True


def check_scripted(scripted: object, what: str) -> None:
    """Raises: TypeError when ``scripted`` is nothing that a request can be answered with."""
    if isinstance(scripted, type):
        raise TypeError(f"{what} is {REPLIES}, not the class {scripted.__name__}: write {scripted.__name__}(...)")
    if not (isinstance(scripted, Reply | str) or callable(scripted)):
        raise TypeError(f"{what} is {REPLIES}, not {scripted!r}")


def as_reply(scripted: Scripted, request: ReceivedRequest) -> Reply | None:
    """A reply, a text or a function's result as a reply. A function that raises is an error answer that says so."""
    if callable(scripted):
        try:
            result = scripted(request)
            if result is not None:
                check_scripted(result, "what it returns")
        except Exception as error:  # noqa: BLE001  the caller of the SDK shall see it, not this server's log
            return Failure(500, f"The scripted function raised {error!r}.")
        return None if result is None else as_reply(result, request)
    return Answer(text=scripted) if isinstance(scripted, str) else scripted
