"""The gateway's wire contract: what goes out and what may come back.

Requests are built here and nowhere else; a field that is unknown is left out, never null. Answers are read strictly:
a number in quotes or a missing identifier is a malformed answer, not a guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from actguard.events import CallEntry, ReserveRequested
from actguard.exceptions import ActGuardPaymentRequired, BudgetExceededError, one_line
from actguard.gateway.failures import MALFORMED, GatewayFailure
from actguard.gateway.http import Answer

RESERVE_PATH = "/api/v1/reserve"
SETTLE_PATH = "/api/v1/settle"
TARIFF_PATH = "/api/v1/cu-tariff"
EVENTS_PATH = "/api/v1/events"

MICRO = Decimal(1_000_000)
NONE = "none"
"""The provider and model of a settlement that used none."""

Text = Annotated[str, Field(min_length=1)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    def to_json(self) -> bytes:
        """The body of a request."""
        return self.model_dump_json(exclude_none=True).encode()


class ReserveRequest(_Message):
    """``POST /api/v1/reserve``: a root budget is opened."""

    run_id: Text
    usd_limit_micros: PositiveInt | None = None
    """Millionths of a dollar, rounded up."""
    cost_limit: PositiveInt | None = None
    """Cost units."""
    plan_key: Text | None = None
    user_id: Text | None = None


class CallUsage(_Message):
    """One provider call of a settlement. Tokens; input includes cache reads and writes."""

    provider: str
    provider_model_id: str
    input_tokens: NonNegativeInt
    cached_input_tokens: NonNegativeInt
    output_tokens: NonNegativeInt
    scope_name: str | None = None


class CustomCost(_Message):
    """One outside cost of a settlement, in cost units."""

    type: Literal["custom_cost"] = "custom_cost"
    name: str
    cost_cu: NonNegativeInt
    scope_name: str | None = None


class SettleRequest(_Message):
    """``POST /api/v1/settle``: the last path left a root; sums over its calls, and each of them."""

    reserve_id: Text
    provider: str = NONE
    provider_model_id: str = NONE
    input_tokens: NonNegativeInt = 0
    cached_input_tokens: NonNegativeInt = 0
    output_tokens: NonNegativeInt = 0
    usage_breakdown: list[CallUsage | CustomCost] = Field(default_factory=list)
    cache_write_tokens_5m: NonNegativeInt | None = None
    cache_write_tokens_1h: NonNegativeInt | None = None
    web_search_count: NonNegativeInt | None = None
    reasoning_effort: Text | None = None


class ReserveAnswer(BaseModel):
    """What the gateway granted. Fields it may add later are let through."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    reserve_id: Text
    status: str | None = None
    cost_limit: NonNegativeInt | None = None
    usd_limit_micros: NonNegativeInt | None = None
    tariff_version: str | None = None
    estimated_usd_micros: NonNegativeInt | None = None

    @property
    def usd_limit(self) -> Decimal | None:
        """The granted limit in USD."""
        return None if self.usd_limit_micros is None else Decimal(self.usd_limit_micros) / MICRO


_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_json(value: Any) -> bytes:
    """``value`` as compact UTF-8 JSON. Text that is no valid Unicode gets a question mark where it is not."""
    return _compact(value).encode("utf-8", "replace")


def _text(value: str | None) -> str:
    """``value`` as text that can be sent: what is no valid Unicode becomes a question mark."""
    return "" if value is None else value.encode("utf-8", "replace").decode()


def reserve_request(request: ReserveRequested) -> ReserveRequest:
    """What is sent for the opening of a root."""
    usd = request.usd_limit
    return ReserveRequest(
        run_id=_text(request.run_id) or request.scope_id,
        usd_limit_micros=None if usd is None else int((usd * MICRO).to_integral_value(ROUND_CEILING)),
        cost_limit=request.cost_limit,
        plan_key=_text(request.plan_key) or None,
        user_id=_text(request.user_id) or None,
    )


def settle_request(reserve_id: str, entries: Sequence[CallEntry]) -> SettleRequest:
    """What is sent when a root was left. Calls that were taken back leave empty entries, which are passed over."""
    calls = [entry for entry in entries if entry.cost_cu is None and entry.provider != NONE]
    last = calls[-1] if calls else None

    def total(field: str) -> int:
        return sum(max(getattr(call, field), 0) for call in calls)

    return SettleRequest(
        reserve_id=reserve_id,
        provider=_text(last.provider) if last else NONE,
        provider_model_id=_text(last.model) if last else NONE,
        input_tokens=total("input_tokens"),
        cached_input_tokens=total("cached_input_tokens"),
        output_tokens=total("output_tokens"),
        usage_breakdown=[_usage(entry) for entry in entries if entry.cost_cu is not None or entry.provider != NONE],
        cache_write_tokens_5m=total("cache_write_tokens_5m") or None,
        cache_write_tokens_1h=total("cache_write_tokens_1h") or None,
        web_search_count=total("web_searches") or None,
        reasoning_effort=(_text(last.reasoning_effort) if last else "") or None,
    )


def _usage(entry: CallEntry) -> CallUsage | CustomCost:
    if entry.cost_cu is not None:
        return CustomCost(name=_text(entry.model), cost_cu=entry.cost_cu, scope_name=_text(entry.scope_name) or None)
    return CallUsage(
        provider=_text(entry.provider),
        provider_model_id=_text(entry.model),
        # A provider that reports a negative number must not cost the whole settlement.
        input_tokens=max(entry.input_tokens, 0),
        cached_input_tokens=max(entry.cached_input_tokens, 0),
        output_tokens=max(entry.output_tokens, 0),
        scope_name=_text(entry.scope_name) or None,
    )


def payment_required(path: str, payload: Any) -> ActGuardPaymentRequired:
    """The error behind an answer 402. Its keys may be written ``CurrentBalance`` or ``current_balance``; whatever is
    missing, or no text where text is expected, is None.
    """
    answer: Mapping[str, Any] = payload if isinstance(payload, dict) else {}
    known = {key.replace("_", "").lower(): value for key, value in answer.items() if value is not None}

    def text(key: str) -> str | None:
        value = known.get(key)
        return one_line(value, 2000) if isinstance(value, str) and value else None

    return ActGuardPaymentRequired(
        path=path,
        status=402,
        user_message=text("usermessage") or text("message"),
        current_balance=known.get("currentbalance"),
        required_amount=known.get("requiredamount"),
        shortfall=known.get("shortfall"),
        topup_url=text("topupurl"),
        topup_session_id=text("topupsessionid"),
        user_id=text("userid"),
        response_payload=answer,
    )


def granted(answer: Answer) -> ReserveAnswer:
    """What a 2xx answer to a reserve grants.

    Raises:
        GatewayFailure: it cannot be read; its ``payload`` is the reserve_id if at least that is there.
    """
    try:
        return ReserveAnswer.model_validate(answer.payload)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "it"
    kept = answer.payload.get("reserve_id") if isinstance(answer.payload, dict) else None
    raise GatewayFailure(
        MALFORMED,
        f"The gateway's answer cannot be used: {where} {problem['msg'][:1].lower()}{problem['msg'][1:]}.",
        path=RESERVE_PATH,
        status=answer.status,
        retryable=False,
        payload=kept if isinstance(kept, str) and kept else None,
    )


def raise_if_refused(
    failure: GatewayFailure,
    *,
    user_id: str | None = None,
    usd_limit: float | None = None,
    cost_limit: int | None = None,
    scope_id: str | None = None,
) -> None:
    """An answer 402 or 409 is an error of the run; any other failure is not.

    Raises:
        ActGuardPaymentRequired, BudgetExceededError: the gateway refuses.
    """
    if failure.status == 402:
        raise payment_required(failure.path, failure.payload)
    if failure.status == 409:
        raise BudgetExceededError(
            origin="remote",
            path=failure.path,
            status_code=409,
            user_id=user_id,
            usd_limit=usd_limit,
            cost_limit=cost_limit,
            limit_type="cost" if usd_limit is None and cost_limit is not None else "usd",
            scope_id=scope_id,
            scope_kind=None if scope_id is None else "root",
            root_scope_id=scope_id,
        )
