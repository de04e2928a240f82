"""What one provider call did cost, as a charge in the ledger, an entry of the settlement and an event."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple, Protocol

from actguard.events import CallEntry, LlmUsage
from actguard.guards.tree import owner_of
from actguard.money.usage import Usage
from actguard.rules.ledger import EXACT, Account, Charge, RowKey

MICRO = Decimal(1_000_000)


class Spent(NamedTuple):
    """What a call used, as far as anybody knows."""

    usage: Usage
    provider: str
    model: str
    context: Mapping[str, str] | None = None
    """What besides the model decides the price."""
    estimated: bool = False
    attempts: int = 1
    """How many times it was sent and billed: the figures are those of one attempt."""


class Asking(Protocol):
    """What an event says about the call that was made."""

    account: Account
    api: str
    stream: bool
    tool_name: str | None


def charge_for(spent: Spent, usd: Decimal, cost: int, scope_name: str | None, tool_name: str | None) -> Charge:
    """The charge of a call that cost ``usd`` dollars and ``cost`` cost units per attempt."""
    usage, attempts = spent.usage, spent.attempts
    row = RowKey(spent.provider, spent.model, scope_name, tool_name, spent.estimated)
    read, written = usage.cached_input_tokens, usage.cache_write_tokens
    charge = Charge(row, usage.input_tokens, read, written, usage.output_tokens, usd, cost)
    return charge if attempts == 1 else _times(charge, attempts)


def _times(charge: Charge, attempts: int) -> Charge:
    return charge._replace(
        input_tokens=charge.input_tokens * attempts,
        cached_input_tokens=charge.cached_input_tokens * attempts,
        cache_write_tokens=charge.cache_write_tokens * attempts,
        output_tokens=charge.output_tokens * attempts,
        usd=EXACT.multiply(charge.usd, Decimal(attempts)),
        cost=charge.cost * attempts,
    )


def entry_for(spent: Spent, charge: Charge, reasoning_effort: str | None) -> CallEntry:
    """The entry of a call in the settlement."""
    usage, attempts = spent.usage, spent.attempts
    return CallEntry(
        provider=spent.provider,
        model=spent.model,
        input_tokens=charge.input_tokens,
        cached_input_tokens=charge.cached_input_tokens,
        cache_write_tokens_5m=usage.cache_write_5m_tokens * attempts,
        cache_write_tokens_1h=usage.cache_write_1h_tokens * attempts,
        output_tokens=charge.output_tokens,
        web_searches=usage.web_searches * attempts,
        reasoning_effort=reasoning_effort,
        scope_name=charge.key.scope_name,
    )


def event_for(spent: Spent, charge: Charge, call: Asking, *, unpriced: bool) -> LlmUsage:
    """The event that tells of a call."""
    owner, usage, attempts = owner_of(call.account), spent.usage, spent.attempts
    return LlmUsage(
        run_id=owner.run_id,
        user_id=owner.user_id,
        tool_name=call.tool_name,
        provider=spent.provider,
        model=spent.model,
        input_tokens=charge.input_tokens,
        cached_input_tokens=charge.cached_input_tokens,
        cache_write_tokens=charge.cache_write_tokens,
        cache_write_tokens_5m=usage.cache_write_5m_tokens * attempts,
        cache_write_tokens_1h=usage.cache_write_1h_tokens * attempts,
        output_tokens=charge.output_tokens,
        reasoning_tokens=None if usage.reasoning_tokens is None else usage.reasoning_tokens * attempts,
        web_searches=usage.web_searches * attempts,
        usd=None if unpriced else charge.usd,
        usd_micros=None if unpriced else micros(charge.usd),
        cost_cu=charge.cost,
        estimated=spent.estimated,
        unpriced=unpriced,
        api=call.api,
        stream=call.stream,
        **owner.identity(),
    )


def micros(usd: Decimal) -> int:
    """Millionths of a dollar, to the nearest whole one."""
    return int(EXACT.multiply(usd, MICRO).to_integral_value(rounding=ROUND_HALF_EVEN))
