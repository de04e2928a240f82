"""Agent frameworks build the same tool from a guarded function as from the bare one, and call it by their own path.

ActGuard's decorators are the inner ones, the framework's is the outermost. The annotations here are strings
(``from __future__ import annotations``), so a framework has to find the names of this module through the wrapper.
Frameworks that are not installed are skipped: see the extra ``frameworks`` for the heavy one.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from guarding import fresh, published

from actguard import max_attempts, rate_limit, tool
from actguard.client import Client
from actguard.events import GuardBlocked, ToolInvoke
from actguard.exceptions import MaxAttemptsExceeded

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@dataclass
class Item:
    """A thing that was bought."""

    name: str
    count: int = 1


Currency = Literal["EUR", "USD"]


def plain_refund(order_id: str, items: list[Item], amount: float = 1.5, currency: Currency = "EUR") -> str:
    """Give money back for an order.

    Args:
        order_id: The order, as find_order returned it.
        items: What was returned.
        amount: How much to give back.
        currency: In which currency.
    """
    return f"{order_id}: {amount} {currency} for {len(items)}"


async def async_refund(order_id: str, items: list[Item], amount: float = 1.5, currency: Currency = "EUR") -> str:
    """Give money back for an order.

    Args:
        order_id: The order, as find_order returned it.
        items: What was returned.
        amount: How much to give back.
        currency: In which currency.
    """
    await asyncio.sleep(0)
    return f"{order_id}: {amount} {currency} for {len(items)}"


BOTH = pytest.mark.parametrize("refund", [plain_refund, async_refund], ids=["plain", "async"])
ARGUMENTS: dict[str, Any] = {"order_id": "A1", "items": [{"name": "tea"}], "amount": 2.5}
RESULT = "A1: 2.5 EUR for 1"


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """All guards that need no key of the call."""
    whole = tool(
        policy=lambda call: "allow",
        circuit_breaker={"name": fresh()},
        rate_limit={"scope": "order_id", "max_calls": 1_000},
        timeout=30,
    )
    return whole(max_attempts(1)(rate_limit(function)))


@contextmanager
def one_call_and_one_refused() -> Iterator[None]:
    """What goes through the framework inside goes through the guards: once, and the second time it is refused."""
    with Client() as client:
        with client.run(), published(client, ToolInvoke, GuardBlocked) as events:
            yield
        assert [type(event) for event in events] == [ToolInvoke, GuardBlocked]


# --- LangChain ------------------------------------------------------------------------------------------------------


@BOTH
async def test_langchain(refund: Callable[..., Any]) -> None:
    tools = pytest.importorskip("langchain_core.tools")
    bare = tools.tool(parse_docstring=True)(refund)
    ours = tools.tool(parse_docstring=True)(guarded(refund))
    assert ours.tool_call_schema.model_json_schema() == bare.tool_call_schema.model_json_schema()
    assert (ours.name, ours.description) == (bare.name, bare.description)
    call = {"name": ours.name, "args": ARGUMENTS, "id": "1", "type": "tool_call"}

    async def through() -> Any:
        return await ours.ainvoke(call) if refund is async_refund else ours.invoke(call)

    with one_call_and_one_refused():
        assert (await through()).content == RESULT
        with pytest.raises(MaxAttemptsExceeded):
            await through()


# --- OpenAI Agents --------------------------------------------------------------------------------------------------


@BOTH
async def test_openai_agents(refund: Callable[..., Any]) -> None:
    agents = pytest.importorskip("agents")
    context = pytest.importorskip("agents.tool_context")

    def tell(context: Any, error: Any) -> str:
        return str(error.to_prompt())

    bare = agents.function_tool(refund)
    ours = agents.function_tool(guarded(refund), failure_error_function=tell)
    for part in ("name", "description", "params_json_schema", "strict_json_schema"):
        assert getattr(ours, part) == getattr(bare, part)

    async def through() -> Any:
        sent = json.dumps(ARGUMENTS | {"currency": "EUR"})
        here = context.ToolContext(context=None, tool_name=ours.name, tool_call_id="1", tool_arguments=sent)
        return await ours.on_invoke_tool(here, sent)

    with one_call_and_one_refused():
        assert await through() == RESULT
        assert (await through()).startswith("Blocked: ")  # this framework tells the model


# --- Pydantic AI ----------------------------------------------------------------------------------------------------


@BOTH
async def test_pydantic_ai(refund: Callable[..., Any]) -> None:
    ai = pytest.importorskip("pydantic_ai")
    models = pytest.importorskip("pydantic_ai.models.function")
    messages = pytest.importorskip("pydantic_ai.messages")
    bare, ours = ai.Tool(refund), ai.Tool(guarded(refund))
    assert ours.tool_def == bare.tool_def

    def script(history: list[Any], info: Any) -> Any:
        """What stands where the model would: one call of the tool, then its result as the answer."""
        part = history[-1].parts[-1]
        if isinstance(part, messages.ToolReturnPart):
            return messages.ModelResponse(parts=[messages.TextPart(str(part.content))])
        return messages.ModelResponse(parts=[messages.ToolCallPart(ours.name, ARGUMENTS)])

    agent = ai.Agent(models.FunctionModel(script), tools=[ours])
    with one_call_and_one_refused():
        assert (await agent.run("Refund it.")).output == RESULT
        with pytest.raises(MaxAttemptsExceeded):
            await agent.run("Refund it.")


# --- Google ADK -----------------------------------------------------------------------------------------------------


@BOTH
async def test_google_adk(refund: Callable[..., Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adk = pytest.importorskip("google.adk.tools", reason="google-adk is not installed: pip install '.[frameworks]'")

    async def simple(order_id: str, amount: float, currency: str) -> str:
        """Give money back for an order."""
        return f"{order_id}: {amount} {currency} for 1"

    def plain_simple(order_id: str, amount: float, currency: str) -> str:
        """Give money back for an order."""
        return f"{order_id}: {amount} {currency} for 1"

    function = simple if refund is async_refund else plain_simple
    with warnings.catch_warnings(), one_call_and_one_refused():
        warnings.simplefilter("ignore")
        bare, ours = adk.FunctionTool(function), adk.FunctionTool(guarded(function))
        assert ours._get_declaration() == bare._get_declaration()
        assert (ours.name, ours.description) == (bare.name, bare.description)
        arguments = {"order_id": "A1", "amount": 2.5, "currency": "EUR"}
        assert await ours.run_async(args=arguments, tool_context=None) == RESULT
        with pytest.raises(MaxAttemptsExceeded):
            await ours.run_async(args=arguments, tool_context=None)
