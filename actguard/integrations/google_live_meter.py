"""One session of Google's Live API: the turn that is under way, what it has used, and what is charged for it.

Nothing here knows the SDK's session; `google_live` says when something is sent and received.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from actguard.context import active_budget
from actguard.exceptions import BudgetExceededError
from actguard.guards.admission import Asked
from actguard.guards.bounding import Bound
from actguard.guards.charging import Ticket
from actguard.integrations.degraded import report
from actguard.integrations.estimate import text_tokens
from actguard.integrations.google_request import media_tokens
from actguard.integrations.google_usage import count, read_live_usage
from actguard.integrations.prompts import estimated_input
from actguard.locks import when_safe
from actguard.money.usage import Usage

PROVIDER = "google"
API = "live"
UNBOUNDED = "the provider keeps the conversation, which is billed with every turn"
AUDIO_BYTES_PER_TOKEN = 1_920
"""Of what the model speaks: 24,000 samples of two bytes and 25 tokens a second."""
_CONTINUED = ("promptTokenCount", "cachedContentTokenCount", "toolUsePromptTokenCount")
"""Counts that stay what they are while a turn's answer grows."""


class LiveMeter:
    """One session: the turn that is under way, and what it has used so far. Nothing here waits."""

    def __init__(self, model: str, budget: Any) -> None:
        self.model = model.removeprefix("models/").rpartition("/")[2]
        self.budget = budget
        """The scope that the session was opened in, if it was opened in one."""
        self._ticket: Ticket | None = None
        self._usage = Usage()
        """What the turn has used so far, estimated from what was sent and received."""
        self._block: Mapping[str, Any] | None = None
        """The turn's report that may still be continued."""
        self._texts: list[str] = []
        self._due = 0
        self._complete = False
        self._crossing: BudgetExceededError | None = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # interpreter shutdown: modules may be gone
            when_safe(self.end)

    # --- sending --------------------------------------------------------------------------------------------------

    async def send(self, content: Any) -> None:
        """Something is about to be sent.

        Raises:
            BudgetExceededError: the budget is full.
            GuardError: its limit is hard, which cannot hold for a conversation that the provider keeps.
        """
        crossing, self._crossing = self._crossing, None
        if crossing is not None:
            raise crossing
        budget = active_budget() or self.budget
        if budget is None:
            return
        sent = _estimate(content)
        if self._ticket is None:
            self._begin(await self._admitted(budget, sent))
        else:
            error, more = self._ticket.check(self._usage)
            if error is not None:
                raise error
            if not more:  # a scope that returns what crosses refuses what comes next
                (await self._admitted(budget, sent)).release()
        self._usage = self._usage + sent

    def _begin(self, ticket: Ticket) -> None:
        if self._ticket is not None:  # another task has begun the turn meanwhile
            ticket.release()
            return
        self._ticket = ticket
        ticket.watch(lambda: self._usage)
        self._usage, self._texts, self._due, self._complete = Usage(), [], 0, False

    async def _admitted(self, budget: Any, sent: Usage) -> Ticket:
        return await admitted(budget, self.model, sent)

    # --- receiving ------------------------------------------------------------------------------------------------

    def waiting(self) -> None:
        """The next message is about to be awaited.

        Raises:
            BudgetExceededError: the turn has crossed a limit; all that came was delivered.
        """
        crossing, self._crossing = self._crossing, None
        if crossing is not None:
            raise crossing

    def received(self, message: Any) -> bool:
        """Note a message; False when the budget ends the turn, so that the session is to be closed."""
        if self._ticket is not None:
            self._note_written(message)
        block = message.usage_metadata
        if block is not None:
            self._note_usage(block.model_dump(mode="json", by_alias=True, exclude_none=True))
        content = message.server_content
        if (content is not None and content.turn_complete) or message.tool_call is not None:
            self._complete = True
        if self._complete:
            self._charge()
        return self._may_go_on()

    def end(self) -> None:
        """The session is over: what its last turn has used is charged."""
        self._charge()
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.charge(self._usage, estimated=True)

    def _note_written(self, message: Any) -> None:
        turn = None if message.server_content is None else message.server_content.model_turn
        tokens = 0
        for part in (turn.parts if turn is not None else None) or ():
            if part.text:
                tokens += text_tokens(len(part.text.encode("utf-8", "replace")))
                if not part.thought:
                    self._texts.append(part.text)
            elif part.inline_data is not None and part.inline_data.data:
                tokens += len(part.inline_data.data) // AUDIO_BYTES_PER_TOKEN
        if tokens:
            self._usage = self._usage + Usage(output_tokens=tokens)

    def _note_usage(self, block: Mapping[str, Any]) -> None:
        before = self._block
        if before is not None and not _continues(before, block):
            self._charge()
        self._block = block

    def _charge(self) -> None:
        """Charge the turn with what was reported for it, if anything was."""
        block, self._block = self._block, None
        usage = None if block is None else read_live_usage(block)
        if usage is None:
            return
        ticket, self._ticket = self._ticket, None
        if ticket is None:  # a turn that the server began by itself, or one that is reported in parts
            budget = active_budget() or self.budget
            if budget is None:
                return
            ticket = budget.admit(_asked(self.model, Usage(), refusable=False))
        self._crossed(ticket.charge(usage))

    def _may_go_on(self) -> bool:
        ticket = self._ticket
        if ticket is None or self._usage.output_tokens < self._due:
            return True
        error, more = ticket.check(self._usage)
        self._due = self._usage.output_tokens + more
        if error is None:
            return True
        self._crossed(error)
        self.end()
        return False

    def _crossed(self, error: BudgetExceededError | None) -> None:
        if error is not None:
            error.partial = "".join(self._texts)
            self._crossing = error


def _asked(model: str, sent: Usage, *, refusable: bool = True) -> Asked:
    return Asked(
        provider=PROVIDER,
        model=model,
        api=API,
        stream=True,
        estimate=sent,
        bound=Bound(0, unbounded=UNBOUNDED),
        refusable=refusable,
    )


async def admitted(budget: Any, model: str, sent: Usage) -> Ticket:
    """A ticket for a turn.

    Raises:
        BudgetExceededError, GuardError: see `BudgetGuard.admit`.
    """
    if not budget.ready:
        await budget.await_ready()
    asked = _asked(model, sent)
    ticket: Ticket = await budget.admit_in_turn(asked) if budget.waits else budget.admit(asked)
    return ticket


def _estimate(content: Any) -> Usage:
    """The input that something adds which is sent."""
    try:
        return estimated_input([_plain(content)], media_tokens)
    except Exception as problem:  # noqa: BLE001  what cannot be read is the SDK's to judge
        report("read a message", PROVIDER, problem)
        return Usage()


def _continues(before: Mapping[str, Any], block: Mapping[str, Any]) -> bool:
    """True when ``block`` reports the same generation as the one before, some of its answer later."""
    same = all(count(before, name) == count(block, name) for name in _CONTINUED)
    return same and count(block, "responseTokenCount") >= count(before, "responseTokenCount")


def _plain(value: Any) -> Any:
    """What the user sends, as plain values."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    dump = getattr(value, "model_dump", None)
    return dump(exclude_none=True) if callable(dump) else value
