"""How hard a model was asked to think: told to the gateway with the settlement, of the last call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gateway_tools import client_of

from actguard.testing import LoopbackProvider
from actguard.testing.gateway import LoopbackGateway

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
SAYS: Any = [{"role": "user", "content": "Hi"}]
THINKING = {"thinking_config": {"thinking_level": "HIGH"}}


@pytest.fixture(scope="module")
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


def chat(provider: LoopbackProvider, **more: Any) -> Any:
    return provider.openai().chat.completions.create(model="gpt-5-mini", messages=SAYS, **more)


def responses(provider: LoopbackProvider, **more: Any) -> Any:
    return provider.openai().responses.create(model="gpt-5-mini", input="Hi", **more)


def message(provider: LoopbackProvider, **more: Any) -> Any:
    create = provider.anthropic().messages.create
    return create(model="claude-haiku-4-5", messages=SAYS, max_tokens=99, extra_body=more)


def content(provider: LoopbackProvider, **more: Any) -> Any:
    models = provider.google().models
    config: Any = more or None
    return models.generate_content(model="gemini-2.5-flash", contents="Hi", config=config)


CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any], str | None]] = {
    "chat": (chat, {"reasoning_effort": "low"}, "low"),
    "responses": (responses, {"reasoning": {"effort": "high", "summary": "auto"}}, "high"),
    "messages": (message, {"output_config": {"effort": "medium"}}, "medium"),
    "generate_content": (content, THINKING, "high"),
    "chat without": (chat, {}, None),
    "chat that says what cannot be": (chat, {"extra_body": {"reasoning_effort": 7}}, None),
}


@pytest.mark.parametrize(("call", "settings", "effort"), CALLS.values(), ids=CALLS)
def test_a_settlement_names_the_effort_of_its_last_call(
    provider: LoopbackProvider, call: Callable[..., Any], settings: dict[str, Any], effort: str | None
) -> None:
    with LoopbackGateway() as gateway, client_of(gateway) as client:
        with client.run(), client.budget_guard(usd_limit=9) as budget:
            chat(provider, reasoning_effort="minimal")
            call(provider, **settings)
            assert budget.calls == 2
        [settlement] = gateway.reservations[0].settlements
    assert settlement.get("reasoning_effort") == effort
