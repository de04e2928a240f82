"""Realtime sessions: what their settings and events say about the cost of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actguard.integrations.bounds import Unbounded, most_input
from actguard.integrations.estimate import input_tokens
from actguard.integrations.metering import Bill
from actguard.integrations.openai_streams import OpenAIReader
from actguard.integrations.openai_usage import bill_of, field, fields_of, usage_of
from actguard.money.usage import Usage

SESSION_TOKENS = 4_096
"""What a new session has at the most before anything is sent: the server's own instructions, and marks."""
LARGEST_ANSWER = 4_096
"""The largest output limit of a realtime answer."""
LARGEST_IMAGE_TOKENS = 12_000
HEARD_TOKENS_PER_SECOND = 10
SPOKEN_TOKENS_PER_SECOND = 20
_BYTES_PER_SECOND = {"audio/pcm": 48_000, "pcm16": 48_000}
"""Of sound, by its format; the others have 8,000."""
SLOWEST = 8_000
_OWN_TOOLS = ("function", None)


class Session:
    """The settings of a session, as far as they decide what its answers cost."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.limit_field = "max_output_tokens"
        self._fields: dict[str, Any] = {}
        self._audio: dict[str, dict[str, Any]] = {"input": {}, "output": {}}

    def update(self, session: Any, *, asked: bool = False) -> None:
        """The server has said what they are, or (``asked``) the program asks for changes, which may be refused."""
        fields = fields_of(session)
        if "max_response_output_tokens" in fields:
            self.limit_field = "max_response_output_tokens"  # the beta of the API
        if asked and fields.get("turn_detection", ...) is None:
            fields = {name: value for name, value in fields.items() if name != "turn_detection"}
        for side, settings in fields_of(fields.get("audio")).items():
            if side in self._audio:
                changes = fields_of(settings)
                if asked and changes.get("turn_detection", ...) is None:
                    changes = {name: value for name, value in changes.items() if name != "turn_detection"}
                self._audio[side].update(changes)
        self._fields.update(fields)
        model = fields.get("model")
        self.model = model if isinstance(model, str) and model else self.model

    @property
    def answers_on_its_own(self) -> bool:
        """True unless the server has said that it will not answer what it hears before it is asked to."""
        if self._fields.get("type") == "transcription":
            return False
        settings = {**self._fields, **self._audio["input"]}
        if "turn_detection" not in settings:
            return True
        detection = settings["turn_detection"]
        return detection is not None and field(detection, "create_response") is not False

    @property
    def transcriber(self) -> str | None:
        """The model that writes down what is heard; None where none does."""
        for settings in (self._audio["input"].get("transcription"), self._fields.get("input_audio_transcription")):
            if isinstance(model := field(settings, "model"), str):
                return model
        return None

    def output_limit(self, response: Any) -> int | None:
        """The most output tokens of an answer; None: as many as the model can."""
        for settings in (fields_of(response), self._fields):
            for name in ("max_output_tokens", "max_response_output_tokens"):
                value = settings.get(name)
                if value == "inf":
                    return None
                if isinstance(value, int) and value > 0:
                    return value
        return None

    def refuse_unbounded(self, response: Any) -> None:
        """Refuse settings with which an answer can cost more than it shows.

        Raises:
            Unbounded: they are such.
        """
        for settings in (fields_of(response), self._fields):
            if settings.get("prompt"):
                raise Unbounded("it uses a stored prompt")
            for tool in settings.get("tools") or ():
                if (kind := field(tool, "type")) not in _OWN_TOOLS:
                    raise Unbounded(f"the provider runs a tool of its own ({kind})")
        if self.transcriber is not None:
            raise Unbounded("what is heard is transcribed by another model")

    def seconds(self, base64_length: int, side: str) -> float:
        """How long a sound is that is sent in base64."""
        return base64_length * 3 / 4 / self._bytes_per_second(side)

    def _bytes_per_second(self, side: str) -> int:
        audio_format = self._audio[side].get("format") or self._fields.get(f"{side}_audio_format") or "pcm16"
        kind = audio_format if isinstance(audio_format, str) else str(field(audio_format, "type"))
        return _BYTES_PER_SECOND.get(kind, SLOWEST)

    def estimate(self, event: Mapping[str, Any]) -> Usage:
        """What a message adds to the input of the next answer."""
        if event.get("type") == "input_audio_buffer.append":
            tokens = int(self.seconds(len(str(event.get("audio") or "")), "input") * HEARD_TOKENS_PER_SECOND)
            return Usage(uncached_input_tokens=tokens, details={"input_audio_tokens": tokens} if tokens else {})
        item = event.get("item") or event.get("session") or field(event.get("response"), "instructions")
        return Usage(uncached_input_tokens=input_tokens(item)) if item else Usage()


def most_of_realtime(event: Mapping[str, Any], session: Session) -> int:
    """The most input tokens that a message adds to the conversation.

    Raises:
        Unbounded: a part of it says nothing about its size.
    """
    if event.get("type") == "input_audio_buffer.append":
        return _most_heard(event.get("audio"))
    if event.get("type") == "response.create":
        return 0  # it is bounded by itself

    def media(part: Mapping[str, Any]) -> int | None:
        match part.get("type"):
            case "input_audio" | "audio" | "output_audio":
                return _most_heard(part.get("audio")) + most_input(part.get("transcript"), lambda _: None)
            case "input_image":
                return LARGEST_IMAGE_TOKENS
        return None

    return most_input(event, media)


def _most_heard(audio: Any) -> int:
    size = len(audio) * 3 // 4 if isinstance(audio, str | bytes) else 0
    return (size // SLOWEST + 1) * HEARD_TOKENS_PER_SECOND


def transcribed(event: Mapping[str, Any], session: Session) -> Bill | None:
    """What the transcription of something heard did cost; None when the event does not say."""
    usage = usage_of(event.get("usage"))
    if usage is None:
        return None
    key = f"{event.get('item_id')}/{event.get('content_index')}"
    return Bill(usage, model=session.transcriber or "unknown", id=key)


class RealtimeReader(OpenAIReader):
    """One realtime answer: its text, its sound, and its usage in the last event."""

    def __init__(self, estimate: Usage, session: Session) -> None:
        super().__init__(estimate)
        self._session = session
        self._sound = 0

    def feed(self, item: Any) -> bool:
        kind, delta = str(item.get("type")), item.get("delta")
        if self._id is None:
            self._id = field(item.get("response"), "id")
        if kind == "response.done":
            self._final = bill_of(item.get("response"))
        elif kind.endswith(".delta") and isinstance(delta, str) and delta:
            if kind in ("response.output_audio.delta", "response.audio.delta"):
                before = self._spoken
                self._sound += len(delta)
                self.output_seen += max(self._spoken - before, 0)
            else:
                self.add(delta, kind.endswith(("text.delta", "transcript.delta")))
        return True

    def at_least(self) -> Usage:
        least = super().at_least()
        return least if self._final is not None else least + _spoken_usage(self._spoken)

    def estimated(self) -> Bill:
        usage = self._input + Usage(output_tokens=self.output_estimate) + _spoken_usage(self._spoken)
        return Bill(usage, model=self._model, estimated=True, id=self._id)

    @property
    def _spoken(self) -> int:
        return int(self._session.seconds(self._sound, "output") * SPOKEN_TOKENS_PER_SECOND)


def _spoken_usage(tokens: int) -> Usage:
    return Usage(output_tokens=tokens, details={"output_audio_tokens": tokens} if tokens else {})
