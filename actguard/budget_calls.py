"""The part of `Client` that speaks to the gateway without a scope: reserve and settle by hand."""

from __future__ import annotations

from typing import Any

from actguard.scope import step
from actguard.subscribers import direct
from actguard.subscribers.link import GatewayLink


class BudgetCalls:
    """The gateway's budget calls, for programs that keep their own books. Scopes make them by themselves."""

    _link: GatewayLink | None

    def _check_open(self, what: str) -> None:
        """Raises: ActGuardUsageError: the client is closed."""
        raise NotImplementedError

    async def areserve_budget(
        self,
        *,
        run_id: str,
        usd_limit_micros: int | None = None,
        cost_limit: int | None = None,
        plan_key: str | None = None,
        user_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Reserve a budget at the gateway, for programs that keep their own books; scopes do this by themselves.

        ``usd_limit_micros`` is in millionths of a dollar, ``cost_limit`` in cost units. The same ``idempotency_key``
        reserves once, however often it is sent. Returns the gateway's answer.

        Raises:
            ActGuardUsageError: an argument is wrong, or this client has no gateway.
            ActGuardPaymentRequired, BudgetExceededError: the gateway refuses.
            BudgetTransportError: it cannot be asked, or its answer has no ``reserve_id``.

        Example:
            ``(await client.areserve_budget(run_id="r1", usd_limit_micros=50_000))["reserve_id"]``
        """
        fields = {
            "run_id": run_id,
            "usd_limit_micros": usd_limit_micros,
            "cost_limit": cost_limit,
            "plan_key": plan_key,
            "user_id": user_id,
        }
        self._check_open("reserve_budget")
        return await direct.reserve(self._link, fields, idempotency_key)

    def reserve_budget(self, **fields: Any) -> dict[str, Any]:
        """The same as `areserve_budget`, blocking this thread."""
        return step(self.areserve_budget(**fields))

    async def asettle_budget(
        self,
        *,
        reserve_id: str,
        provider: str = "none",
        provider_model_id: str = "none",
        input_tokens: int = 0,
        cached_input_tokens: int = 0,
        output_tokens: int = 0,
        usage_breakdown: list[dict[str, Any]] | None = None,
        cache_write_tokens_5m: int | None = None,
        cache_write_tokens_1h: int | None = None,
        web_search_count: int | None = None,
        reasoning_effort: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Settle a reservation at the gateway. Tokens are sums; ``usage_breakdown`` has one entry per call.

        The same ``idempotency_key`` settles once, however often it is sent. Returns the gateway's answer.

        Raises:
            ActGuardUsageError: an argument is wrong, or this client has no gateway.
            ActGuardPaymentRequired, BudgetExceededError: the gateway refuses.
            BudgetTransportError: it cannot be asked.

        Example:
            ``await client.asettle_budget(reserve_id="…", provider="openai", provider_model_id="gpt-4o-mini", …)``
        """
        fields = {name: value for name, value in locals().items() if name not in {"self", "idempotency_key"}}
        self._check_open("settle_budget")
        return await direct.settle(self._link, fields, idempotency_key)

    def settle_budget(self, **fields: Any) -> dict[str, Any]:
        """The same as `asettle_budget`, blocking this thread."""
        return step(self.asettle_budget(**fields))
