"""What goes wrong between this process and the gateway, said in one kind of error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actguard.exceptions import BudgetTransportError, MonitoringDegradedError, quoted

MALFORMED = "malformed"
LOCAL_ONLY = "The run goes on with local limits only."


class GatewayFailure(Exception):
    """A request that did not end well. It never reaches users: subscribers turn it into what the contract says.

    ``kind`` is a stable word: "refused", "reset", "dns", "certificate", "tls", "timeout", "truncated", "not_json",
    "malformed", "redirect", "rejected", "unauthorized", "payment_required", "conflict", "rate_limited",
    "server_error". ``retryable`` says whether the same request may succeed later. ``retry_after`` is in seconds.
    ``payload`` is what the gateway said, where that was read.
    """

    def __init__(
        self,
        kind: str,
        summary: str,
        *,
        path: str,
        retryable: bool,
        status: int | None = None,
        retry_after: float | None = None,
        payload: Any = None,
        accepted: bool = False,
        date: str | None = None,
    ) -> None:
        super().__init__(summary)
        self.kind = kind
        self.summary = summary
        self.path = path
        self.retryable = retryable
        self.status = status
        self.retry_after = retry_after
        self.payload = payload
        self.accepted = accepted
        """True when the gateway said yes, and only the text of its answer is unusable."""
        self.date = date
        """The gateway's clock, as the Date header of a refusal says it."""

    def degraded(self, operation: str, consequence: str = LOCAL_ONLY, *, subsystem: str) -> MonitoringDegradedError:
        """The same as the facts of a warning; ``consequence`` says what happens now."""
        return MonitoringDegradedError(
            subsystem=subsystem,
            operation=operation,
            failure_kind=self.kind,
            path=self.path,
            status_code=self.status,
            summary=f"{self.summary} {consequence}",
        )

    def as_transport_error(self, operation: str) -> BudgetTransportError:
        """The same as an error for the caller who wants to know."""
        where = f"{self.path} answered {self.status}" if self.status else self.path
        return BudgetTransportError(
            f"The gateway could not be used to {operation} ({where}: {self.kind}). {self.summary}",
            path=self.path,
            status_code=self.status,
            failure_kind=self.kind,
        )


def timed_out(path: str) -> GatewayFailure:
    """The failure of an answer that did not come in time."""
    return GatewayFailure("timeout", "The gateway did not answer in time.", path=path, retryable=True)


_CLIENT_ERRORS = {
    400: ("rejected", "The gateway calls the request wrong: this SDK and the gateway may be of different versions."),
    401: ("unauthorized", "The gateway does not accept the key: check api_key."),
    402: ("payment_required", "The gateway wants the account to be topped up."),
    403: ("unauthorized", "The key is not allowed to do this: check api_key and its rights at the gateway."),
    404: ("rejected", "The gateway does not know this address: check gateway_url."),
    409: ("conflict", "The gateway refused: the budget is used up."),
    413: ("rejected", "The gateway calls the request too large: lower max_batch_bytes."),
    429: ("rate_limited", "The gateway asks to slow down."),
}


def of_status(
    path: str, status: int, headers: Mapping[str, str], payload: Any, retry_after: float | None
) -> GatewayFailure:
    """The failure that an answer outside 2xx means."""
    if status >= 500:
        kind, summary = "server_error", "The gateway has a problem of its own."
    elif status >= 400:
        kind, summary = _CLIENT_ERRORS.get(status, ("rejected", "The gateway does not accept the request."))
    elif status >= 300:
        to = headers.get("Location")
        where = f" to {quoted(to, 120)}" if to else ""
        kind, summary = "redirect", f"The gateway redirects{where}; redirects are not followed, so set gateway_url."
    else:
        kind, summary = "rejected", "The gateway sent no final answer."
    return GatewayFailure(
        kind,
        summary,
        path=path,
        status=status,
        retryable=status == 429 or status >= 500,
        retry_after=retry_after,
        payload=payload,
        date=headers.get("Date"),
    )
