"""Anthropic's messages, whole or streamed, parsed or raw. `anthropic_routes` says which calls they are."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from actguard.integrations.anthropic_bound import bound_of, limit_fields
from actguard.integrations.anthropic_request import estimate_of, output_limit_of, provider_of, uncounted_tool
from actguard.integrations.anthropic_usage import StreamedMessage, field, price_context, read_usage, usage_of_others
from actguard.integrations.bodies import BodyReader
from actguard.integrations.estimate import text_tokens
from actguard.integrations.eventstream import EventStreamBodyReader
from actguard.integrations.metering import Bill, Bound, Outcome, Request, Unknown
from actguard.integrations.stainless import StainlessExchange
from actguard.integrations.streams import StreamReader
from actguard.integrations.written import input_at_least
from actguard.money.usage import Usage

EVENT_STREAM = "application/vnd.amazon.eventstream"


class AnthropicExchange(StainlessExchange):
    """One message, asked for and answered."""

    def __init__(self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], api: str) -> None:
        super().__init__(client, args, kwargs)
        self.api = api
        client_class: Any = type(client)
        self.provider = provider_of(client_class)
        self.uncounted = uncounted_tool(self.body)

    @cached_property
    def model(self) -> str:
        """The model as the user names it, with Bedrock's region and version."""
        model = self.body.get("model")
        return model if isinstance(model, str) and model else "unknown"

    @cached_property
    def estimate(self) -> Usage:
        """The input as estimated from the request."""
        return estimate_of(self.body)

    def request(self) -> Request:
        self.see_parsed_answers()
        return Request(
            model=self.model,
            api=self.api,
            stream=self.streams,
            estimate=self.estimate,
            output_limit=output_limit_of(self.body),
        )

    def bound(self) -> Bound | None:
        return bound_of(self.given, self.attempts)

    def reasoning_effort(self) -> Any:
        return field(self.body.get("output_config"), "effort")

    def limit_output(self, tokens: int) -> None:
        self.replace_in_body(limit_fields(self.given, tokens))

    def bill(self, answer: Any) -> Bill | None:
        block = field(answer, "usage")
        usage = read_usage(block)
        if usage is None:
            return None
        return Bill(
            usage,
            model=self.priced_model(field(answer, "model")),
            context=price_context(block, self.body),
            others=others_of(block),
        )

    def without_usage(self, answer: Any) -> Outcome:
        text = written_text(answer)
        if not text:
            return Unknown()
        usage = self.estimate + Usage(output_tokens=text_tokens(len(text.encode("utf-8", "replace"))))
        return Bill(usage, model=self.priced_model(field(answer, "model")), estimated=True)

    def priced_model(self, answered: object) -> str | None:
        """The model to price: the one that answered, except that Bedrock's answers leave out what sets the price.

        Its prices differ by region, which only the request names; an ARN of the user's own profile names no model.
        """
        if self.provider == "aws" and "anthropic." in self.model:
            return None
        return answered if isinstance(answered, str) and answered else None

    def reader(self) -> StreamReader:
        return MessageReader(self)

    def _body_reader(self, response: Any) -> BodyReader:
        if response.headers.get("content-type", "").partition(";")[0].strip() == EVENT_STREAM:
            return EventStreamBodyReader(response, self.reader())
        return super()._body_reader(response)


class MessageReader(StreamReader):
    """Reads a streamed message along."""

    def __init__(self, exchange: AnthropicExchange) -> None:
        self._exchange = exchange
        self._message = StreamedMessage()

    @property
    def text(self) -> str:
        return self._message.text

    def feed(self, item: Any) -> bool:
        self._message.feed(item)
        if (seen := self._message.output_tokens) > self.output_seen:
            self.output_seen = seen
        return True

    def bill(self, complete: bool) -> Outcome:
        exchange, message = self._exchange, self._message
        usage = message.usage() or Usage()
        if not message.counted:
            usage = exchange.estimate + usage
        return Bill(
            usage,
            model=exchange.priced_model(message.model),
            context=price_context(message.block, exchange.body),
            estimated=not message.complete,
            others=others_of(message.block) if message.complete else (),
        )

    def at_least(self) -> Usage:
        usage = self._message.usage_at_least() or Usage()
        return usage if self._message.counted else input_at_least(self._exchange.estimate) + usage


def others_of(block: object) -> tuple[Bill, ...]:
    """What other models used on the way to an answer with this usage block."""
    return tuple(Bill(usage, model=model) for model, usage in usage_of_others(block))


def written_text(answer: Any) -> str:
    """The text of a whole answer: a message's blocks, or what the completions of old returned."""
    completion = field(answer, "completion")
    if isinstance(completion, str):
        return completion
    blocks = field(answer, "content")
    texts = (field(block, "text") for block in blocks) if isinstance(blocks, list) else ()
    return "".join(text for text in texts if isinstance(text, str))
