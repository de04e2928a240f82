"""What a `LoopbackProvider` is told to answer.

    Answer      text, tool calls, usage, pace: one generation of a model
    Failure     an HTTP error in the provider's own shape
    Hang        the request is accepted and never answered
    Reset       the connection is closed before the first byte
    Gate        holds an answer until the test lets it go

All token counts mean what they mean everywhere in ActGuard: input is all billed input, cache reads and writes
included; output is everything generated, reasoning included. Each API's own arithmetic is done by the provider.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from actguard.testing.received import ReceivedRequest

Finish = Literal["stop", "length", "tool_calls", "content_filter", "failed"]
"""Why a generation ended. Each API has its own word for it: ``"length"`` is ``length``, ``max_tokens``,
``MAX_TOKENS`` or an incomplete response."""


class Gate:
    """Holds answers back until the test opens it: waiting without sleeping.

    `held` says how many answers wait at it now. A gate opens once and stays open.

    Example:
        gate = Gate()
        provider.script(Answer(text="late", gate=gate))
        ...                                             # start the call elsewhere
        await provider.wait_for(lambda: gate.held == 1)
        gate.open()
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def held(self) -> int:
        """Number of answers that wait at the gate now."""
        return len(self._waiting)

    def open(self) -> None:
        """Let everything through, now and from now on. Safe from any thread."""
        with self._lock:
            self._open = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # the provider has stopped: nothing is held there any more
                loop.call_soon_threadsafe(event.set)

    async def _pass(self, changed: Callable[[], None]) -> None:
        """Wait on the provider's loop until the gate is open; ``changed`` is told that `held` has changed."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self._open:
                return
            self._waiting.append(entry)
        changed()
        try:
            await entry[1].wait()
        finally:
            with self._lock:
                if entry in self._waiting:
                    self._waiting.remove(entry)
            changed()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called.

    Raises: TypeError when the name is no text or the arguments cannot be written as JSON.

    Example: ``ToolCall("get_weather", {"city": "Oslo"})``.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    """A mapping, or the JSON text itself where a test wants it broken."""
    id: str | None = None
    """None: made from the number of the request."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"ToolCall(name={self.name!r}): must be a text")
        _ = self.json  # what is no JSON fails where it is scripted, not where it is sent

    @property
    def json(self) -> str:
        """The arguments as the model writes them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(dict(self.arguments))


TOKENS_PER_SECOND = 2_000
"""How fast a stream is generated where its script says nothing: ten times a real model's pace, and slow enough that a
client which leaves is gone before much more is generated for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One generation of a model, as much of it as a test cares about; the rest is worked out.

    Without ``text``, ``tool_calls`` and ``generate`` the answer is a short echo of the request. Counts that are
    not given follow from the text: four bytes of UTF-8 are one token.

    Raises: TypeError for a value of a wrong type, ValueError for a negative number or an unknown ``finish``; both
    name the field.

    Example:
        Answer(text="Hello", input_tokens=1_000, cached_input_tokens=800, output_tokens=20)
        Answer(tool_calls=[ToolCall("get_weather", {"city": "Oslo"})])
        Answer(generate=10_000, chunk_delay=0.01)
    """

    text: str | None = None
    """Sent as it is, also when it is longer than the request's output limit."""
    tool_calls: tuple[ToolCall, ...] | list[ToolCall] = ()
    thinking: str | None = None
    """Visible thoughts, where the API shows them (Anthropic, Gemini, Responses summaries)."""
    generate: int | None = None
    """Tokens that the model would generate: as many are, unless the request's own output limit cuts it short."""
    finish: Finish = "stop"
    """``"failed"`` breaks off: a Responses answer with status failed, an error event in other streams, and a
    status 500 for a plain answer of the other APIs."""

    model: str | None = None
    """The model that the answer names; None: the one that was asked for."""
    service_tier: str | None = None
    input_tokens: int | None = None
    """All billed input, cache reads and writes included."""
    output_tokens: int | None = None
    """Everything generated, reasoning included; for all choices together."""
    cached_input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int | None = None
    """The part of the output that was reasoning."""
    web_searches: int = 0
    usage: bool = True
    """False leaves the usage block out."""
    raw_usage: Mapping[str, Any] | None = None
    """The usage block to send, exactly, in the words of the API that is asked."""
    data: bytes | None = None
    """The body of a binary answer (speech)."""

    delay: float = 0.0
    """Seconds before the first byte."""
    chunks: int | None = None
    """Pieces that a streamed text is cut into; None: one for every four tokens, at most 256."""
    chunk_delay: float | None = None
    """Seconds before each piece but the first; None: `TOKENS_PER_SECOND`. With 0 a stream is sent as fast as it can be,
    and so is generated far ahead of its reader."""
    cut_after: int | None = None
    """The connection is lost after this many pieces of a stream; a plain answer is cut in its middle."""
    gate: Gate | None = None
    """Holds the answer until it is opened."""
    gate_after: int = 0
    """Pieces of a stream that pass before the gate holds the rest."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            kinds, words = _FIELDS[each.name]
            fits = isinstance(value, kinds) and (isinstance(value, bool) == (kinds is bool))
            if not fits and not (value is None and each.default is None):
                raise TypeError(f"Answer({each.name}={value!r}): must be {words}")
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"Answer({each.name}={value}): must not be negative")
        for call in self.tool_calls:
            if not isinstance(call, ToolCall):
                raise TypeError(f"Answer(tool_calls=[…{call!r}…]): must be ToolCall objects")
        if self.finish not in get_args(Finish):
            raise ValueError(f"Answer(finish={self.finish!r}): must be one of {', '.join(get_args(Finish))}")


_TEXT: tuple[Any, str] = (str, "a text")
_COUNT: tuple[Any, str] = (int, "a whole number")
_SECONDS: tuple[Any, str] = (int | float, "a number of seconds")
_FIELDS: Mapping[str, tuple[Any, str]] = {
    **dict.fromkeys(("text", "thinking", "finish", "model", "service_tier"), _TEXT),
    **dict.fromkeys(("generate", "input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"), _COUNT),
    **dict.fromkeys(("cache_write_5m_tokens", "cache_write_1h_tokens", "web_searches"), _COUNT),
    **dict.fromkeys(("chunks", "cut_after", "gate_after"), _COUNT),
    **dict.fromkeys(("delay", "chunk_delay"), _SECONDS),
    "tool_calls": (tuple | list, "a list of ToolCall objects"),
    "usage": (bool, "True or False"),
    "raw_usage": (Mapping, "a dict"),
    "data": (bytes, "bytes"),
    "gate": (Gate, "a Gate"),
}
"""What each field of an `Answer` has to be."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error answer in the provider's own shape. Nothing is billed for it.

    Raises: TypeError, ValueError when ``status`` is no HTTP error.

    Example: ``Failure(429, "Slow down", retry_after=1.5)``.
    """

    status: int = 500
    message: str = "The loopback provider was told to fail."
    retry_after: float | None = None
    """Seconds, sent as the Retry-After header."""
    code: str | None = None
    """The error's code or type in the body; None: the one that the API uses for the status."""

    def __post_init__(self) -> None:
        if not isinstance(self.status, int):
            raise TypeError(f"Failure(status={self.status!r}): must be a whole number")
        if not 400 <= self.status <= 599:
            raise ValueError(f"Failure(status={self.status}): must be an HTTP error, 400 to 599")


@dataclass(frozen=True, slots=True)
class Hang:
    """The request is accepted and never answered; it ends when the client leaves or the provider stops."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset before the first byte of an answer."""


Reply: TypeAlias = Answer | Failure | Hang | Reset
"""Anything that one request can be answered with."""

ReplyFunction: TypeAlias = Callable[[ReceivedRequest], Reply | str | None]
"""A programmed provider: sees each request and answers it, or returns None to leave it to the next in line."""
