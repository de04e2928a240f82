"""The agents, written as a user of ActGuard would write them: two scopes, one `except`, and the SDKs as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import actguard
from actguard.demo import story
from actguard.demo.happenings import AgentAnswered, AgentTold, ScopeOpened, TextArrived, ToolCalled
from actguard.demo.models import Call, Model
from actguard.demo.story import Tool
from actguard.exceptions import BudgetExceededError
from actguard.guards.budget import BudgetGuard

RESEARCH_SHARE = Decimal("0.4")
"""The part of the ticket's budget that research may use."""
MAX_TURNS = 20
"""The agents' own limit, for a model that never comes to an end and costs next to nothing."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Which model plays which part."""

    support: Model
    research: Model
    summary: Model


@dataclass(slots=True)
class Ticket:
    """The case, and what became of it."""

    budget: BudgetGuard
    """The scope of the whole ticket."""
    research: BudgetGuard | None = None
    """The scope of the research agent, once it was asked."""
    answer: str = ""
    """What the customer was told."""
    note: str = ""
    """The summary for the files."""
    stopped: BudgetExceededError | None = None
    """Set when the ticket's own budget ended the work."""


class SupportDesk:
    """Works on one ticket, with ``cap`` USD for everything."""

    def __init__(self, client: actguard.Client, cap: Decimal) -> None:
        self._client = client
        self._cap = cap
        self.ticket = Ticket(client.budget_guard(name="support", usd_limit=cap))

    async def work(self, cast: Cast) -> None:
        """Work on the ticket until it is answered and summed up, or its budget is used up."""
        ticket = self.ticket
        try:
            async with self._client.run(user_id="demo"), ticket.budget as budget:
                self._opened(budget, self._cap)
                ticket.answer = await self._support(cast)
                ticket.note = await self._sum_up(cast.summary)
        except BudgetExceededError as full:
            ticket.stopped = full

    async def _support(self, cast: Cast) -> str:
        async def ask_research(question: str) -> str:
            return await self._research(cast.research, question)

        ask = Tool(story.ASK_RESEARCH, "Ask the research agent.", {"question": "what to find out"}, ask_research)
        tools = [story.LOOK_UP_ORDER, story.READ_POLICY, ask, story.OFFER_REPLACEMENT]
        return await self._loop(self.ticket.budget, cast.support, story.SUPPORT, tools, story.TICKET)

    async def _research(self, model: Model, question: str) -> str:
        """The sub-agent, in a scope of its own. When that is full, the agent around it is told and goes on."""
        cap = self._cap * RESEARCH_SHARE
        async with self._client.budget_guard(name="research", usd_limit=cap) as budget:
            self.ticket.research = budget
            self._opened(budget, cap)
            try:
                return await self._loop(budget, model, story.RESEARCH, [story.SEARCH_MANUALS], question)
            except BudgetExceededError as full:
                if full.scope_id != budget.scope_id:
                    raise  # not this scope but the one around it: nothing goes on
                told = full.to_prompt()
        self._client.bus.publish(AgentTold(prompt=told, **self.ticket.budget.identity()))
        return told

    async def _sum_up(self, model: Model) -> str:
        pieces = []
        async for piece in model.stream(story.SUMMARY, f"{story.TICKET}\n\n{self.ticket.answer}"):
            pieces.append(piece)
            self._client.bus.publish(TextArrived(piece=piece, **self.ticket.budget.identity()))
        return "".join(pieces)

    async def _loop(
        self, budget: BudgetGuard, model: Model, instructions: str, tools: Sequence[Tool], task: str
    ) -> str:
        """A tool loop: ask the model, run the tools that it wants, give it the results, until it answers."""
        conversation = model.converse(instructions, tools)
        turn = await conversation.say(task)
        for _ in range(MAX_TURNS):
            if not turn.calls:
                break
            results = []
            for call in turn.calls:
                self._client.bus.publish(ToolCalled(call=str(call), **budget.identity()))
                results.append((call, await _use(tools, call)))
            turn = await conversation.report(results)
        text = turn.text or "I have come to no result."
        self._client.bus.publish(AgentAnswered(text=text, **budget.identity()))
        return text

    def _opened(self, budget: BudgetGuard, limit: Decimal) -> None:
        self._client.bus.publish(ScopeOpened(usd_limit=limit, **budget.identity()))


async def _use(tools: Sequence[Tool], call: Call) -> str:
    for tool in tools:
        if tool.name == call.tool and tool.parameters.keys() == call.arguments.keys():
            return await tool.run(**call.arguments)
    return "There is no such tool, or it has other parameters."
