"""``enforce``: rules about the arguments and the session that must hold before a tool runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actguard import clock
from actguard.exceptions import GuardError
from actguard.guards.guarding import Guard
from actguard.guards.protocol import CallScope, Quick, refused
from actguard.guards.session import session_of
from actguard.guards.state import shared
from actguard.guards.tools import Call, Tool
from actguard.rules import custody
from actguard.rules.rule import Rule
from actguard.rules.session import CallSession


class Enforce(Guard[None]):
    """What `enforce` returns."""

    name = "enforce"
    direct = False

    def __init__(self, rules: Rule | Iterable[Rule]) -> None:
        super().__init__()
        self.rules = custody.checked_rules(rules, "enforce")

    def bind(self, tool: Tool) -> Enforce:
        for rule in self.rules:
            rule.validate(tool.parameters)
        return super().bind(tool)

    def enter(self, call: Call) -> CallScope | None:
        return self._check(call.args, call.kwargs)

    def quick(self) -> Quick:
        return self._check

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallScope | None:
        tool = self.tool
        assert tool is not None
        session = session_of(self)
        held = CallSession(session.key, tool.name, shared.apply, clock.monotonic())
        arguments = tool.arguments(args, kwargs)
        rule = self.rules[0]
        try:
            for rule in self.rules:
                rule.check(arguments, held)
        except GuardError as refusal:
            held.release()
            raise _announced(self, rule, refusal) from refusal.__cause__
        except BaseException:
            held.release()
            raise
        return _Holding(held) if held.mark() else None


class _Holding(CallScope):
    """A call for which rules hold something: used up when it succeeds, given back when it does not."""

    __slots__ = ("_held",)

    def __init__(self, held: CallSession) -> None:
        self._held = held

    def returned(self, value: Any) -> Any:
        self._held.commit(clock.monotonic())
        return value

    def leave(self, error: BaseException | None) -> None:
        self._held.release()


def _announced(guard: Enforce, rule: Rule, refusal: GuardError) -> GuardError:
    """``refusal``, announced. What a user's own rule says may show an argument: the event leaves it out."""
    facts = {"code": refusal.code, "rule": type(rule).__name__}
    if _is_ours(rule):
        refused(guard, refusal, figures={**refusal.details, **facts})
    else:
        refused(guard, refusal, message=f"{refusal.code}: refused by {type(rule).__name__}", figures=facts)
    return refusal


def _is_ours(rule: Rule) -> bool:
    return type(rule).__module__.startswith("actguard.rules.") and all(map(_is_ours, getattr(rule, "rules", ())))


def enforce(rules: Rule | Iterable[Rule]) -> Enforce:
    """Check ``rules`` in order before the tool runs; the first that does not hold refuses the call.

    Needs an active `session`. A rule about an argument that the tool does not have fails when decorating. What rules
    take (a single-use fact, a part of a sum) is used up when the tool returns, and given back when it fails.

    Args:
        rules: one rule or several: `RequireFact`, `RequireCall`, `Threshold`, `CumulativeLimit`, `OneOf`,
            `BlockRegex`, `AllOf`, `AnyOf`, or your own (see `Rule`).

    Raises:
        ActGuardUsageError: a rule does not fit the tool (when decorating).
        GuardError: a rule does not hold, or no session is active (when called).

    Example::

        @actguard.enforce([actguard.RequireFact("order_id", kind="order"), actguard.Threshold("amount", max=500)])
        def refund(order_id: str, amount: float) -> str: ...
    """
    return Enforce(rules)
