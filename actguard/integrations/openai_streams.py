"""Reading OpenAI's streams along: from the SDK's typed events, or from their parsed JSON."""

from __future__ import annotations

from typing import Any

from actguard.guards.charging import STANDARD, PriceContext
from actguard.integrations.estimate import BYTES_PER_TOKEN
from actguard.integrations.metering import Bill, Outcome
from actguard.integrations.openai_usage import bill_of, context_of, field, fields_of
from actguard.integrations.streams import StreamReader
from actguard.integrations.written import KEPT_PIECES, Written, input_at_least
from actguard.money.usage import Usage

ONE_TOKEN = 8
"""A piece of no more characters is taken for one token, as it mostly is."""
_RUN_ENDED = frozenset({"completed", "incomplete", "failed", "cancelled", "expired"})


class OpenAIReader(StreamReader):
    """What the readers share: counting what arrives, and the bill when the provider's own figure is missing."""

    def __init__(self, estimate: Usage, tier: object = None) -> None:
        """``estimate`` is the input as estimated from the request, ``tier`` the service tier that it asks for."""
        self._input = estimate
        self._asked = context_of(tier)
        self._tier: str | None = None
        self._shown: list[str] = []
        self._hidden: list[str] = []
        self._counted = 0
        self._size = 0
        self._pieces = 0
        self._long = 0
        self._written = Written()
        self._final: Bill | None = None
        self._model: str | None = None
        self._id: str | None = None

    def add(self, piece: str, shown: bool = False) -> None:
        """Take in a piece of output; ``shown``: it is text of the answer. Counted when somebody asks, or when due."""
        size = len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))
        self.output_seen += (size + 3) // BYTES_PER_TOKEN
        if shown:
            self._shown.append(piece)
        else:
            self._hidden.append(piece)
            if len(self._hidden) >= KEPT_PIECES:
                self._count()

    def _count(self) -> None:
        """Count what has come since the last time: a hundred pieces together take as long as ten of them apart."""
        new = self._shown[self._counted :]
        self._counted += len(new)
        hidden, self._hidden = self._hidden, []
        new += hidden
        self._pieces += len(new)
        self._size += len("".join(new).encode("utf-8", "surrogatepass"))
        long = [piece for piece in new if len(piece) > ONE_TOKEN]
        self._long += len(long)
        for piece in long:
            self._written.add(piece)

    @property
    def output_estimate(self) -> int:
        """The tokens of what was written so far: a token for four bytes, and no less than one for each piece."""
        self._count()
        return max(self._size // BYTES_PER_TOKEN, self._pieces)

    @property
    def text(self) -> str:
        return "".join(self._shown)

    def bill(self, complete: bool) -> Outcome:
        return self._final if self._final is not None else self.estimated()

    def at_least(self) -> Usage:
        """OpenAI sends a token, or a few of them, in a piece."""
        if self._final is not None:
            return self._final.usage
        self._count()
        output = self._pieces + max(self._written.tokens_at_least - self._long, 0)
        return input_at_least(self._input) + Usage(output_tokens=output)

    def estimated(self) -> Bill:
        """The input as estimated, and the output that arrived."""
        usage = self._input + Usage(output_tokens=self.output_estimate)
        return Bill(usage, model=self._model, context=self.contexts()[0], estimated=True, id=self._id)

    def contexts(self) -> tuple[PriceContext, ...]:
        """Until the answer names its tier, a request for a special one may still be served as usual."""
        if self._tier is not None:
            return (context_of(self._tier),)
        return STANDARD if self._asked is None else (self._asked, None)

    def note_tier(self, tier: object) -> None:
        """What an event of the answer says about its service tier: "auto" only repeats the request."""
        if isinstance(tier, str) and tier and tier != "auto":
            self._tier = tier


class ChatReader(OpenAIReader):
    """Chat completions and legacy completions: usage comes in an extra chunk behind the last choice.

    ``injected``: it comes because we asked for it, and the caller must not see that chunk.
    """

    def __init__(self, estimate: Usage, injected: bool = False, tier: object = None) -> None:
        super().__init__(estimate, tier)
        self._injected = injected
        self._is_last = False
        self._usual = False
        """The last chunk was an SDK's model with a piece of one choice's text: so will nearly all others be."""

    def feed(self, item: Any) -> bool:
        if self._usual:
            try:  # looking at each of a chunk's models only once takes a third off the time of reading a stream
                fields = item.__dict__
                [choice] = fields["choices"]
                if fields["usage"] is None:
                    fields = choice.__dict__
                    if piece := fields["delta"].content:
                        self.add(piece, not fields["index"])
                        return True
            except (AttributeError, KeyError, TypeError, ValueError):
                self._usual = False
        return self._read_chunk(item)

    def _read_chunk(self, item: Any) -> bool:
        chunk = fields_of(item)
        if self._model is None:
            self._model = chunk.get("model") or None
        self.note_tier(chunk.get("service_tier"))
        choices = chunk.get("choices") or ()
        if chunk.get("usage") is not None:
            self._final = bill_of(chunk)
            self._is_last = not choices
            if self._is_last and self._injected:
                return False
        for choice in choices:
            self._read_choice(fields_of(choice))
        self._usual = self._usual and type(item) is not dict and self._model is not None
        return True

    def bill(self, complete: bool) -> Outcome:
        if self._final is not None and (complete or self._is_last):
            return self._final
        if self._final is not None:  # a server that reports usage in every chunk: what was used up to here
            return Bill(self._final.usage, model=self._model, context=self.contexts()[0], estimated=True)
        return self.estimated()

    def _read_choice(self, choice: Any) -> None:
        shown = not choice.get("index")
        if isinstance(text := choice.get("text"), str) and text:  # a legacy completion
            self.add(text, shown)
        delta = choice.get("delta")
        if delta is None:
            return
        delta = fields_of(delta)
        if content := delta.get("content"):
            self.add(content, shown)
            self._usual = True
        elif delta.get("tool_calls"):
            for call in delta["tool_calls"]:
                function = fields_of(fields_of(call).get("function"))
                self._add_others(function)
        else:
            self._add_others(delta)

    def _add_others(self, fields: Any) -> None:
        """Refusals, function calls, and the reasoning that compatible servers show under names of their own."""
        for name, value in fields.items():
            if isinstance(value, str) and value and name != "role":
                self.add(value)
            elif name in ("function_call", "audio") and value is not None:
                self._add_others({key: text for key, text in fields_of(value).items() if key not in ("id", "data")})


class ResponsesReader(OpenAIReader):
    """The Responses API: usage is in the last event, which carries the whole response."""

    def feed(self, item: Any) -> bool:
        event = fields_of(item)
        kind = event.get("type")
        if not isinstance(kind, str):
            return True
        if kind.endswith(".delta"):
            delta = event.get("delta")
            if isinstance(delta, str) and delta and kind != "response.audio.delta":
                self.add(delta, kind == "response.output_text.delta")
        elif (response := event.get("response")) is not None:
            self._id = field(response, "id") or self._id
            self._model = field(response, "model") or self._model
            self.note_tier(field(response, "service_tier"))
            self._final = bill_of(response)
        return True


class MediaReader(OpenAIReader):
    """Streamed images, transcriptions and speech: usage is in the last event."""

    def feed(self, item: Any) -> bool:
        event = fields_of(item)
        if event.get("usage") is not None:
            self._final = bill_of(event)
        elif isinstance(delta := event.get("delta"), str) and delta:
            self.add(delta, shown=True)
        return True


class RunReader(OpenAIReader):
    """An assistant's run: usage is in the event that ends the run, which may come in a later stream."""

    def feed(self, item: Any) -> bool:
        data = field(item, "data") or item
        kind = field(data, "object")
        if kind == "thread.run":
            self._id = field(data, "id") or self._id
            self._model = field(data, "model") or self._model
            if field(data, "status") in _RUN_ENDED:
                self._final = bill_of(data)
        elif kind == "thread.message.delta":
            for part in field(field(data, "delta"), "content") or ():
                if isinstance(text := field(field(part, "text"), "value"), str):
                    self.add(text, shown=True)
        return True
