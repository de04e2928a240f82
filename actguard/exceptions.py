"""Every error that ActGuard raises.

    ActGuardError
    ├── ActGuardToolError                      a tool or model call was refused or failed
    │   ├── ToolGuardError (ActGuardViolation)     refused before or instead of the call; outcome "blocked"
    │   │   ├── RateLimitExceeded
    │   │   ├── CircuitOpenError
    │   │   ├── MaxAttemptsExceeded
    │   │   ├── PolicyViolationError (GuardError)
    │   │   ├── IdempotencyInProgress
    │   │   ├── DuplicateIdempotencyKey
    │   │   ├── IdempotencyOutcomeUnknown
    │   │   ├── IdempotencyKeyReused
    │   │   └── BudgetExceededError
    │   └── ToolExecutionError                     the call began and was given up
    │       └── ToolTimeoutError
    ├── ActGuardRuntimeError                   the surroundings do not allow it
    │   ├── ActGuardPaymentRequired (BudgetPaymentRequiredError)
    │   ├── BudgetTransportError
    │   ├── MonitoringDegradedError                carried by ActGuardMonitoringWarning
    │   └── ActGuardRuntimeContextError
    │       ├── MissingRuntimeContextError
    │       ├── NestedRuntimeContextError (NestedRunContextError)
    │       ├── NestedBudgetGuardError
    │       ├── BudgetConfigurationError
    │       └── BudgetClientMismatchError
    └── ActGuardUsageError                     wrong settings or arguments; nothing was spent or sent
        ├── InvalidIdempotentToolError
        ├── MissingIdempotencyKeyError
        ├── TimeoutUsageError
        ├── ScopeValidationError
        ├── SessionUsageError
        ├── ReportingContractError
        ├── CircuitBreakerConfigurationError
        └── MaxAttemptsConfigurationError

Errors take facts and write their own sentence. Each has ``code`` (stable, for programs), ``reason`` (short, for
logs), ``details`` (the facts as a dict), ``retryable`` (may the same call succeed later, unchanged?), ``outcome``
(what the event says: "blocked" or "failed") and ``to_prompt()`` (one line for the model). All of them pickle.
"""

from __future__ import annotations

import math
import pickle
import reprlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar, Literal

PROMPT_LIMIT = 500
"""Longest ``to_prompt()`` in characters."""

LimitType = Literal["token", "usd", "cost"]


def quoted(value: object, limit: int = 60) -> str:
    """A value from outside, made harmless for one line of text: quoted, escaped and at most ``limit`` characters.

    Example: ``quoted("x\\ny")`` is ``"'x\\\\ny'"``.
    """
    try:
        text = repr(value[: limit * 2]) if isinstance(value, str) else reprlib.repr(value)
    except Exception:  # noqa: BLE001  a hostile __repr__ must not replace the error that quotes it
        text = f"<{type(value).__name__}>"
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= limit else text[: limit - 2] + "…" + text[0]


def one_line(text: str, limit: int = PROMPT_LIMIT) -> str:
    """``text`` on one line, printable, at most ``limit`` characters."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def message_of(error: BaseException, limit: int) -> str:
    """What a foreign exception says, on one line of at most ``limit`` characters; empty where it cannot say it."""
    try:
        return one_line(str(error), limit)
    except Exception:  # noqa: BLE001  a hostile __str__ must not replace the error that tells of it
        return ""


def seconds(value: float) -> str:
    """A duration in seconds as people write it, never rounded down to nothing: ``"0.5 s"``, ``"12 s"``."""
    if not math.isfinite(value):
        return "an unknown time"
    if value >= 10:
        return f"{math.ceil(value)} s"
    return f"{max(math.ceil(value * 10) / 10, 0.1):g} s"


def called(tool_name: str) -> str:
    """What a model calls the tool ``module:qualname``: its plain name."""
    return tool_name.rpartition(":")[2].rpartition(".")[2]


class ActGuardError(Exception):
    """Base of every error that ActGuard raises."""

    code: str = "actguard.error"
    reason: str = "error"
    retryable: bool = False
    outcome: ClassVar[Literal["blocked", "failed"]] = "failed"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    @property
    def message(self) -> str:
        """The sentence this error prints."""
        return str(self)

    @property
    def details(self) -> dict[str, Any]:
        """The facts of this error; what is unknown is left out."""
        return {
            name: value
            for name, value in vars(self).items()
            if value is not None and not name.startswith("_") and name not in {"code", "reason", "retryable"}
        }

    def to_prompt(self) -> str:
        """One line for the model: what happened and what to do next."""
        return one_line(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, {name: _portable(value) for name, value in vars(self).items()})


def _portable(value: Any) -> Any:
    """``value`` if it pickles, else what is left of it: an error has to arrive, whatever it carries."""
    if _pickles(value):
        return value
    if isinstance(value, Mapping):
        return {quoted(key) if not _pickles(key) else key: _portable(each) for key, each in value.items()}
    return quoted(value)


def _pickles(value: Any) -> bool:
    if value is None or isinstance(value, str | int | float):
        return True
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301  our own bytes; many SDK errors fail only when read back
    except Exception:  # noqa: BLE001  whatever an object from outside raises, it does not pickle
        return False
    return True


def _rebuild(cls: type[ActGuardError], args: tuple[Any, ...], facts: dict[str, Any]) -> ActGuardError:
    """Unpickle without calling ``__init__``: its facts are already composed into the message."""
    error = cls.__new__(cls, *args)
    error.args = args
    vars(error).update(facts)
    return error


# --- a tool or model call was refused or failed -----------------------------------------------------------------


class ActGuardToolError(ActGuardError):
    """A guarded call was refused or failed."""

    code = "tool.error"
    reason = "tool_error"


class ToolGuardError(ActGuardToolError):
    """A guard refused the call; the guarded body did not run (or, for a budget, must not go on)."""

    code = "tool.blocked"
    reason = "blocked"
    outcome = "blocked"


class RateLimitExceeded(ToolGuardError):
    """More than ``max_calls`` calls in a window of ``period`` seconds."""

    code = "tool.rate_limited"
    reason = "rate_limited"
    retryable = True

    def __init__(
        self, *, tool_name: str, scope_value: object = None, max_calls: int, period: float, retry_after: float
    ) -> None:
        for_whom = "" if scope_value is None else f" for {quoted(scope_value)}"
        super().__init__(
            f"{tool_name} was called more than {'once' if max_calls == 1 else f'{max_calls} times'} in {period:g} s"
            f"{for_whom}; "
            f"the next call is possible in {seconds(retry_after)}."
        )
        self.tool_name = tool_name
        self.scope_value = scope_value
        self.max_calls = max_calls
        self.period = period
        self.retry_after = retry_after

    def to_prompt(self) -> str:
        return one_line(
            f"Blocked: {called(self.tool_name)} is called too often. Do not call it again for "
            f"{seconds(self.retry_after)}; go on with other steps, or tell the user about the delay."
        )


class CircuitOpenError(ToolGuardError):
    """The dependency failed too often and rests until ``reset_at`` (epoch seconds)."""

    code = "tool.circuit_open"
    reason = "circuit_open"
    retryable = True

    def __init__(self, *, dependency_name: str, reset_at: float, retry_after: float) -> None:
        super().__init__(
            f"{dependency_name} keeps failing and is not called now; the next attempt is possible in "
            f"{seconds(retry_after)}."
        )
        self.dependency_name = dependency_name
        self.reset_at = reset_at
        self.retry_after = retry_after

    def to_prompt(self) -> str:
        return one_line(
            f"Blocked: {self.dependency_name} is failing at the moment. Do not call tools that need it for "
            f"{seconds(self.retry_after)}; use another source or tell the user that it is unavailable."
        )


class MaxAttemptsExceeded(ToolGuardError):
    """The tool was called ``used`` times in this run, ``limit`` are allowed."""

    code = "tool.max_attempts"
    reason = "max_attempts_exceeded"

    def __init__(self, *, run_id: str, tool_name: str, limit: int, used: int) -> None:
        super().__init__(f"{tool_name} may be called {limit} times in a run; this is call {used} of run {run_id}.")
        self.run_id = run_id
        self.tool_name = tool_name
        self.limit = limit
        self.used = used

    def to_prompt(self) -> str:
        return one_line(
            f"Blocked: {called(self.tool_name)} has been called {self.limit} times in this run, which is the most "
            "allowed. Do not call it again; answer with what you have or tell the user what is missing."
        )


class PolicyViolationError(ToolGuardError):
    """A rule or policy refused the call.

    Users raise it from their own rules: ``raise GuardError("NOT_ALLOWED", "…", fix_hint="…")``.
    ``fix_hint`` is shown to the model; ``details`` goes to the operator.
    """

    code = "POLICY_VIOLATION"
    reason = "policy_violation"

    def __init__(
        self,
        code: str = "POLICY_VIOLATION",
        message: str = "",
        details: Mapping[str, Any] | None = None,
        fix_hint: str | None = None,
    ) -> None:
        super().__init__(message or f"The call was refused: {code}.", code=code)
        self.fix_hint = fix_hint
        self._details = dict(details or {})

    @property
    def details(self) -> dict[str, Any]:
        return dict(self._details)

    def to_prompt(self) -> str:
        hint = self.fix_hint or "Do not repeat this call unchanged."
        return one_line(f"Blocked ({one_line(self.code, 60)}): {one_line(str(self), 250)} {hint}")


class _IdempotencyError(ToolGuardError):
    """What the idempotency refusals share: which tool, in which run. The key is an argument and stays out."""

    def __init__(self, *, tool_name: str, run_id: str) -> None:
        super().__init__(self._sentence.format(tool=tool_name, run=run_id))
        self.tool_name = tool_name
        self.run_id = run_id

    _sentence: ClassVar[str] = "{tool} was refused in run {run}."
    _advice: ClassVar[str] = ""

    def to_prompt(self) -> str:
        return one_line(f"Blocked: {self._sentence.format(tool=called(self.tool_name), run='this run')} {self._advice}")


class IdempotencyInProgress(_IdempotencyError):
    """The same call, with the same key, is running now."""

    code = "tool.idempotency_in_progress"
    reason = "idempotency_in_progress"
    retryable = True
    _sentence = "{tool} is already running with this idempotency_key in {run}."
    _advice = "Wait for that call to finish; do not start it again under another key."


class DuplicateIdempotencyKey(_IdempotencyError):
    """The call with this key is already done (``on_duplicate="raise"``)."""

    code = "tool.duplicate_idempotency_key"
    reason = "duplicate_idempotency_key"
    _sentence = "{tool} has already been done with this idempotency_key in {run}."
    _advice = "Do not repeat it; go on with the earlier result."


class IdempotencyOutcomeUnknown(_IdempotencyError):
    """The call with this key failed or was cancelled half-way: whether it took effect is unknown."""

    code = "tool.idempotency_outcome_unknown"
    reason = "idempotency_outcome_unknown"
    _sentence = "An earlier call of {tool} with this idempotency_key ended half-way in {run}; its effect is unknown."
    _advice = "Do not repeat it; check whether it took effect, or ask the user."


class IdempotencyKeyReused(_IdempotencyError):
    """The key was used before, with other arguments."""

    code = "tool.idempotency_key_reused"
    reason = "idempotency_key_reused"
    _sentence = "{tool} was called with an idempotency_key that belongs to a call with other arguments in {run}."
    _advice = "Use a new idempotency_key for a different operation, or the same arguments for a repeat."


class BudgetExceededError(ToolGuardError):
    """A budget scope is full: used has reached the limit.

    The scope named here is the one that is full. USD are dollars, tokens are input plus output, cost is in cost
    units (CU). ``response`` is the paid answer of the call that crossed the limit (what the SDK method would have
    returned), ``partial`` the text received of a stream that was cut; both are None when a call was refused before
    it was sent. ``held`` says what calls under way may still use and ``missing`` how much more this call would have
    needed, when that is why; ``under_way`` is False when those calls have ended and their cost stays unknown, so that
    waiting is of no use. ``is_share`` says that the limit was a share of what the scopes around had left.
    ``origin`` says who decided: this process ("local") or the gateway ("remote").
    """

    code = "budget.limit_exceeded"
    reason = "budget_exhausted"

    def __init__(
        self,
        *,
        user_id: str | None = None,
        tokens_used: int = 0,
        token_limit: int | None = None,
        usd_used: float = 0.0,
        usd_limit: float | None = None,
        cost_used: int = 0,
        cost_limit: int | None = None,
        limit_type: LimitType = "usd",
        scope_id: str | None = None,
        scope_name: str | None = None,
        scope_kind: str | None = None,
        parent_scope_id: str | None = None,
        root_scope_id: str | None = None,
        origin: Literal["local", "remote"] = "local",
        path: str | None = None,
        status_code: int | None = None,
        held: str | None = None,
        missing: str | None = None,
        under_way: bool = True,
        is_share: bool = False,
        response: Any = None,
        partial: str | None = None,
    ) -> None:
        self.user_id = user_id
        self.tokens_used = tokens_used
        self.token_limit = token_limit
        self.usd_used = usd_used
        self.usd_limit = usd_limit
        self.cost_used = cost_used
        self.cost_limit = cost_limit
        self.limit_type = limit_type
        self.scope_id = scope_id
        self.scope_name = scope_name
        self.scope_kind = scope_kind
        self.parent_scope_id = parent_scope_id
        self.root_scope_id = root_scope_id
        self.origin = origin
        self.path = path
        self.status_code = status_code
        self.held = held
        self.missing = missing
        self.under_way = under_way
        self.is_share = is_share
        self.response = response
        self.partial = partial
        self.retryable = held is not None and under_way
        super().__init__(str(self))

    def __str__(self) -> str:
        # Composed when it is shown: the answer is put on the error after it is made.
        if self.origin == "remote":
            where = f" ({self.path} answered {self.status_code})" if self.path else ""
            return f"The gateway refused: the budget is used up{where}. Raise the limit at the gateway to go on."
        scope = f"Budget scope {self.scope_name!r}" if self.scope_name else "The budget"
        figures = {
            "usd": f"{self.usd_used:.6f} of {Decimal(str(self.usd_limit or 0)):f} USD",
            "token": f"{self.tokens_used} of {self.token_limit} tokens",
            "cost": f"{self.cost_used} of {self.cost_limit} CU",
        }[self.limit_type]
        parameter = _LIMIT_PARAMETER[self.limit_type]
        if self.is_share:
            if not {"usd": self.usd_limit, "token": self.token_limit, "cost": self.cost_limit}[self.limit_type]:
                return f"{scope} has nothing: the scopes around it had nothing left to share. Raise their {parameter}."
            parameter = f"share or the {parameter} of the scopes around it"
        if self.held and not self.under_way:
            figures += f", and {self.held} held for calls that ended without a word of their cost"
        elif self.held and not self.missing:
            held = f"{self.held} more are held by calls under way until their cost is known"
            return f"{scope} has no room at the moment: {figures}, and {held}. Wait for them, or raise {parameter}."
        if self.missing:
            figures += f", and {self.held} held by calls under way" if self.held and self.under_way else ""
            raise_it = f"Raise {parameter}, or ask for less."
            return f"{scope} has no room for this call: {figures}; {self.missing} more would be needed. {raise_it}"
        after = " The answer that crossed the limit is in .response." if self.response is not None else ""
        if self.partial is not None:
            after = " The stream was closed; the text received so far is in .partial."
        return f"{scope} is used up: {figures}.{after} Raise {parameter} to go on."

    @property
    def details(self) -> dict[str, Any]:
        return {name: value for name, value in super().details.items() if name not in {"response", "partial"}}

    def to_prompt(self) -> str:
        if self.held and self.under_way:
            return (
                "Blocked for now: other calls under way may use up the rest of the budget. Wait until they are done, "
                "then try again; do not start more calls at once."
            )
        if self.scope_kind == "nested":
            which = f"of {quoted(self.scope_name)}" if self.scope_name else "of this sub-task"
            return one_line(f"Blocked: the budget {which} is used up. Do not use it again; go on with what you have.")
        return (
            "Blocked: the budget for this task is used up. Make no further model or tool calls; "
            "finish with what you have."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (cls, args, facts) = super().__reduce__()
        if facts["response"] is not self.response:  # a text in its place would be taken for an answer
            facts["response"] = None
        return rebuild, (cls, args, facts)


_LIMIT_PARAMETER: dict[LimitType, str] = {"usd": "usd_limit", "token": "token_limit", "cost": "cost_limit"}


class ToolExecutionError(ActGuardToolError):
    """The guarded call began and did not come to an end of its own."""

    code = "tool.execution_failed"
    reason = "execution_failed"


class ToolTimeoutError(ToolExecutionError):
    """The call took longer than ``timeout_s`` seconds and was given up. Whether it took effect is unknown."""

    code = "tool.timeout"
    reason = "timeout"
    retryable = True

    def __init__(self, *, tool_name: str, timeout_s: float, run_id: str | None = None) -> None:
        in_run = f" in run {run_id}" if run_id else ""
        super().__init__(f"{tool_name} did not finish within {timeout_s:g} s{in_run} and was given up.")
        self.tool_name = tool_name
        self.timeout_s = timeout_s
        self.run_id = run_id

    def to_prompt(self) -> str:
        return one_line(
            f"{called(self.tool_name)} did not answer within {self.timeout_s:g} s. It may or may not have taken "
            "effect: check before you repeat it, or ask for less at once."
        )


# --- the surroundings do not allow it -----------------------------------------------------------------------------


class ActGuardRuntimeError(ActGuardError):
    """The surroundings (context, gateway, account) do not allow the operation."""

    code = "runtime.error"
    reason = "runtime_error"


class ActGuardPaymentRequired(ActGuardRuntimeError):
    """The gateway answered 402: the account has to be topped up. Amounts are as the gateway sent them."""

    code = "budget.payment_required"
    reason = "payment_required"
    outcome = "blocked"

    def __init__(
        self,
        *,
        path: str,
        status: int = 402,
        user_message: str | None = None,
        current_balance: Any = None,
        required_amount: Any = None,
        shortfall: Any = None,
        topup_url: str | None = None,
        topup_session_id: str | None = None,
        user_id: str | None = None,
        response_payload: Mapping[str, Any] | None = None,
    ) -> None:
        where = f" Top up at {topup_url}." if topup_url else " Top up the account to go on."
        super().__init__(f"Payment required ({path} answered {status}): {user_message or 'no credit left'}.{where}")
        self.path = path
        self.status = status
        self.user_message = user_message
        self.current_balance = current_balance
        self.required_amount = required_amount
        self.shortfall = shortfall
        self.topup_url = topup_url
        self.topup_session_id = topup_session_id
        self.user_id = user_id
        self.response_payload = dict(response_payload or {})


class BudgetTransportError(ActGuardRuntimeError):
    """The gateway could not be asked, or its answer was unusable."""

    code = "budget.transport_failed"
    reason = "transport_failed"
    retryable = True

    def __init__(
        self, message: str, *, path: str | None = None, status_code: int | None = None, failure_kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.status_code = status_code
        self.failure_kind = failure_kind


class MonitoringDegradedError(ActGuardRuntimeError):
    """Something beside the guarded call does not work; the call itself goes on. Carried by the warning."""

    code = "monitoring.degraded"
    reason = "monitoring_degraded"

    def __init__(
        self,
        *,
        subsystem: str,
        operation: str,
        failure_kind: str,
        path: str | None = None,
        status_code: int | None = None,
        summary: str = "",
    ) -> None:
        where = f" ({path} answered {status_code})" if path and status_code else f" ({path})" if path else ""
        super().__init__(f"{subsystem}: {operation} failed{where}: {failure_kind}. {summary}".rstrip())
        self.subsystem = subsystem
        self.operation = operation
        self.failure_kind = failure_kind
        self.path = path
        self.status_code = status_code
        self.summary = summary


class ActGuardMonitoringWarning(RuntimeWarning):
    """Shown once per kind of failure while everything guarded goes on. ``error`` has the facts."""

    def __init__(self, error: MonitoringDegradedError) -> None:
        super().__init__(str(error))
        self.error = error


class ActGuardRuntimeContextError(ActGuardRuntimeError):
    """The operation does not fit the run or budget scope that is active here."""

    code = "runtime.context"
    reason = "runtime_context"


class MissingRuntimeContextError(ActGuardRuntimeContextError):
    """No run (or no budget scope) is active where one is needed."""

    code = "runtime.context_missing"
    reason = "context_missing"

    def __init__(self, what: str, *, needs: str = "run") -> None:
        opener = "client.run()" if needs == "run" else "client.budget_guard()"
        super().__init__(
            f"{what} needs an active {needs}: enter `{opener}` around it. In a worker thread, start it with "
            "`actguard.carry(fn)` so that it takes the context along."
        )
        self.what = what


class NestedRuntimeContextError(ActGuardRuntimeContextError):
    """A run was opened inside a run, or one run object a second time."""

    code = "runtime.nested_run"
    reason = "nested_run"

    def __init__(self, *, run_id: str, closed: bool = False) -> None:
        super().__init__(
            f"Run {run_id} is over, and one object is one run. Call `client.run()` again."
            if closed
            else f"Run {run_id} is already active here, and runs do not nest. Leave it first, or open a nested "
            "`client.budget_guard()` for a part of the work."
        )
        self.run_id = run_id


class NestedBudgetGuardError(ActGuardRuntimeContextError):
    """A budget guard object was entered a second time."""

    code = "runtime.nested_budget_guard"
    reason = "nested_budget_guard"

    def __init__(self, *, name: str | None = None, closed: bool = False) -> None:
        which = f" {name!r}" if name else ""
        super().__init__(
            f"This budget guard{which} was left, and one object is one scope. Call `client.budget_guard()` again."
            if closed
            else f"This budget guard{which} is already entered, and one object is one scope. Call "
            "`client.budget_guard()` again for a nested or parallel scope."
        )
        self.scope_name = name


def _setting(value: object) -> str:
    """A setting as it is written in a call."""
    return f"{value:f}" if isinstance(value, Decimal) else repr(value)


class BudgetConfigurationError(ActGuardRuntimeContextError):
    """A parallel path attaches to the run's root budget with other settings."""

    code = "runtime.budget_configuration"
    reason = "budget_configuration"

    def __init__(self, *, field: str, root_value: object, value: object) -> None:
        super().__init__(
            f"{field}={_setting(value)} differs from {field}={_setting(root_value)} of this run's root budget, which "
            "this path joins. Use the same settings, or open this scope inside the root for a nested budget."
        )
        self.field = field


class BudgetClientMismatchError(ActGuardRuntimeContextError):
    """A budget scope was opened with another client than the run."""

    code = "runtime.client_mismatch"
    reason = "client_mismatch"

    def __init__(self) -> None:
        super().__init__(
            "The active run belongs to another Client. Open budget_guard() on the client whose run() is active."
        )


# --- wrong settings or arguments ------------------------------------------------------------------------------------


class ActGuardUsageError(ActGuardError):
    """A wrong setting or argument. ``field`` names it. Nothing was spent or sent."""

    code = "usage.error"
    reason = "usage"

    def __init__(self, message: str = "", *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class InvalidIdempotentToolError(ActGuardUsageError):
    """``idempotent`` on a function that cannot be idempotent (no ``idempotency_key``, or a generator)."""

    code = "usage.invalid_idempotent_tool"


class MissingIdempotencyKeyError(ActGuardUsageError):
    """The call's ``idempotency_key`` is absent, not a str, or empty."""

    code = "usage.missing_idempotency_key"


class TimeoutUsageError(ActGuardUsageError):
    """``timeout`` with a wrong setting, or where it cannot work."""

    code = "usage.timeout"


class ScopeValidationError(ActGuardUsageError):
    """``rate_limit`` with a wrong setting, or a ``scope`` that names no argument of the tool."""

    code = "usage.rate_limit"


class SessionUsageError(ActGuardUsageError):
    """``session`` with a wrong id or scope."""

    code = "usage.session"


class ReportingContractError(ActGuardUsageError):
    """``emit_event`` or ``emit_violation`` with arguments that cannot become an event."""

    code = "usage.reporting"


class CircuitBreakerConfigurationError(ActGuardUsageError):
    """``circuit_breaker`` with a wrong setting, or two definitions of one dependency that differ."""

    code = "usage.circuit_breaker"


class MaxAttemptsConfigurationError(ActGuardUsageError):
    """``max_attempts`` with a wrong setting."""

    code = "usage.max_attempts"


ActGuardViolation = ToolGuardError
GuardError = PolicyViolationError
NestedRunContextError = NestedRuntimeContextError
BudgetPaymentRequiredError = ActGuardPaymentRequired
