"""Events of the demo's own. A program's events travel on the same bus as ActGuard's, typed like them."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from actguard.events import ScopedEvent


class ScopeOpened(ScopedEvent):
    """A budget scope was entered."""

    category: Literal["demo"] = "demo"
    name: Literal["scope_opened"] = "scope_opened"
    usd_limit: Decimal
    """What may be spent in it, in USD."""


class ToolCalled(ScopedEvent):
    """A model asked for a tool."""

    category: Literal["demo"] = "demo"
    name: Literal["tool_called"] = "tool_called"
    call: str
    """The call as text, on one line."""


class AgentTold(ScopedEvent):
    """An agent was told why its tool ended early; the scope is the agent's own, which goes on."""

    category: Literal["demo"] = "demo"
    name: Literal["agent_told"] = "agent_told"
    prompt: str
    """What stands in place of the tool's result: the refusal's ``to_prompt()``."""


class TextArrived(ScopedEvent):
    """A piece of a streamed answer."""

    category: Literal["demo"] = "demo"
    name: Literal["text_arrived"] = "text_arrived"
    piece: str
    """The text that is new."""


class AgentAnswered(ScopedEvent):
    """An agent is done."""

    category: Literal["demo"] = "demo"
    name: Literal["agent_answered"] = "agent_answered"
    text: str
    """Its answer, whole."""
