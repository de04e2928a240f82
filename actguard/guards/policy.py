"""``policy=`` of `@tool`: a function of yours decides about each call, and can ask a human.

    "allow"          the call goes on
    "deny"           it is refused; `Deny` gives a reason for the model
    "ask"            somebody is asked through the bus (`ApprovalRequested`) and decides; `Ask` tells them why

Whatever goes wrong refuses the call: a policy that raises or returns anything else, an approver that raises, nobody
there to ask.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from actguard.bus import NOBODY
from actguard.context import active_run
from actguard.events import ApprovalRequested
from actguard.exceptions import ActGuardUsageError, GuardError, called, one_line
from actguard.guards.arguments import choice
from actguard.guards.guarding import Guard
from actguard.guards.protocol import refused
from actguard.guards.run import Run
from actguard.guards.session import Session, active_session
from actguard.guards.tools import Call, Tool, plain_function, shown_name
from actguard.guards.workers import Job, context_for_thread, start
from actguard.rules import checks

ASK_TIMEOUT_S = 300.0
"""Seconds that an approval is waited for, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Deny:
    """A policy's "deny", with the reason that the model is told.

    Example: ``return actguard.Deny("Refunds over 500 EUR need a manager.")``
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """A policy's "ask", with the reason that the one who decides is told.

    Example: ``return actguard.Ask("This customer has had three refunds this week.")``
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a policy decides about."""

    tool_name: str
    """``module:qualname``."""
    arguments: Mapping[str, Any]
    """The arguments by name, defaults included."""
    run: Run | None
    """The active run, if there is one."""
    session: Session | None
    """The active session, if there is one."""


Verdict = Literal["allow", "deny", "ask"] | Deny | Ask
Check = Callable[[ToolCall], Verdict | Awaitable[Verdict]]


class Policy(Guard[None]):
    """The guard that `@tool` makes of ``policy=``."""

    name = "policy"
    direct = False

    def __init__(
        self, check: Check, ask_timeout_s: float = ASK_TIMEOUT_S, default: Literal["allow", "deny"] = "deny"
    ) -> None:
        super().__init__()
        if not callable(check):
            raise ActGuardUsageError("policy: check must be a function of one argument", field="check")
        self.check = check
        plain = plain_function(check)
        self.is_async = inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(
            getattr(plain, "__call__", None)  # noqa: B004  an object with `async def __call__`
        )
        self.ask_timeout_s = checks.duration(ask_timeout_s, "ask_timeout_s", "policy")
        self.allows_by_default = choice(default, ("allow", "deny"), "default", "policy") == "allow"

    def enter(self, call: Call) -> Coroutine[Any, Any, None] | None:
        return _Decision(self, call).begin()


class _Decision:
    """What the policy says about one call."""

    __slots__ = ("_call", "_guard")

    def __init__(self, guard: Policy, call: Call) -> None:
        self._guard = guard
        self._call = call

    def begin(self) -> Coroutine[Any, Any, None] | None:
        """Let the call go on (None), or refuse it; or a coroutine to wait for first."""
        tool = self._call.tool
        assert tool is not None
        arguments = tool.arguments(self._call.args, self._call.kwargs)
        asked = ToolCall(tool.name, arguments, active_run(), active_session())
        if self._guard.is_async:
            return self._decide_later(asked, tool)
        return self._decided(asked, self._guard.check(asked))

    def _decided(self, asked: ToolCall, verdict: Any) -> Coroutine[Any, Any, None] | None:
        """Let the call go on or refuse it; a coroutine when somebody has to be asked."""
        if verdict == "allow":
            return None
        if verdict == "ask" or isinstance(verdict, Ask):
            return self._ask(asked, verdict.reason if isinstance(verdict, Ask) else "")
        if verdict != "deny" and not isinstance(verdict, Deny):
            what = "None" if verdict is None else f"a {type(verdict).__name__}"
            raise ActGuardUsageError(
                f'policy of {asked.tool_name} must return "allow", "deny", "ask", Deny(…) or Ask(…), not {what}: the '
                "call is refused",
                field="policy",
            )
        raise self._denied("POLICY_DENIED", verdict.reason if isinstance(verdict, Deny) else "")

    async def _decide_later(self, asked: ToolCall, tool: Tool) -> None:
        check: Any = self._guard.check
        if tool.kind.is_async:
            verdict = await check(asked)
        else:
            # A plain tool has no event loop to wait on: the policy gets one of its own, in a worker thread.
            job = Job(context_for_thread(), lambda: anyio.run(check, asked))
            start(job)
            job.done.acquire()
            verdict = job.result()
        rest = self._decided(asked, verdict)
        if rest is not None:
            await rest

    async def _ask(self, asked: ToolCall, reason: str) -> None:
        run = asked.run
        if run is None:
            raise self._denied(
                "APPROVAL_UNAVAILABLE", "It needs an approval, and outside a run there is nobody to ask."
            )
        request = ApprovalRequested(
            run_id=run.run_id,
            user_id=run.user_id,
            tool_name=asked.tool_name,
            arguments=asked.arguments,
            reason=reason,
            session_id=None if asked.session is None else asked.session.id,
        )
        try:
            answer = await run.bus.ask(request, self._timeout())
        except TimeoutError:
            if self._call.runner is not None:
                self._call.runner.left()
            if self._guard.allows_by_default:
                return
            raise self._denied("APPROVAL_TIMEOUT", "It needs an approval, and nobody decided in time.") from None
        except GuardError as refusal:
            raise refused(self._guard, refusal, message=refusal.code, figures={}) from None
        except Exception as error:
            raise self._denied("APPROVAL_FAILED", "It needs an approval, and the approver failed.") from error
        if answer is NOBODY:
            raise self._denied("APPROVAL_UNAVAILABLE", "It needs an approval, and there is nobody to ask.")
        if answer is True or answer == "allow":
            return
        if isinstance(answer, Deny):
            answer = answer.reason
        given = answer if isinstance(answer, str) and answer != "deny" else ""
        raise self._denied("APPROVAL_DENIED", given or "It was not approved.")

    def _timeout(self) -> float:
        runner = self._call.runner
        return self._guard.ask_timeout_s if runner is None else min(self._guard.ask_timeout_s, runner.left())

    def _denied(self, code: str, reason: str) -> GuardError:
        """The refusal, announced. The reason may show an argument: the event leaves it out."""
        name = shown_name(self._guard.tool)
        error = GuardError(
            code,
            f"{called(name)} was not allowed. {one_line(reason, 200)}".rstrip(),
            fix_hint="Do not repeat this call; go on without it, or ask the user.",
        )
        return refused(self._guard, error, message=f"{code}: {name}", figures={"code": code})
