"""The chain of custody: what must be true of the arguments and the session before a tool may run.

    RequireFact      an id must have come from a tool or the user, not out of thin air
    RequireCall      another tool must have succeeded in this session
    Threshold        a number must stay within bounds
    CumulativeLimit  the sum of a number over the session must
    OneOf            a value must be one of a few
    BlockRegex       a text must not contain a pattern
    AllOf, AnyOf     several rules together, or one of several

Arguments are named by a path (see `actguard.rules.paths`). A rule refuses with a `GuardError`; its text never shows the
value of an argument. What a rule cannot read, it refuses. What is absent is None or not there: only ``optional=True``
lets that pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from actguard.exceptions import ActGuardUsageError, GuardError, one_line
from actguard.rules import checks, facts, values
from actguard.rules.argument_rules import BlockRegex, OneOf, Threshold
from actguard.rules.rule import ArgumentRule, Rule, amount_setting, flag, hint_text
from actguard.rules.session import Session

__all__ = [
    "AllOf",
    "AnyOf",
    "BlockRegex",
    "CumulativeLimit",
    "OneOf",
    "RequireCall",
    "RequireFact",
    "Rule",
    "Threshold",
    "checked_rules",
]


@dataclass(frozen=True)
class RequireFact(ArgumentRule):
    """``arg`` must be an id of the given ``kind`` that ``prove`` or ``trust`` has minted in this session.

    With ``consume``, the first call that succeeds uses the fact up; while a call that needs it is under way, no other
    gets it. ``hint`` tells the model where to get the id. Refuses with ``MISSING_FACT``.

    Example: ``RequireFact("order_id", kind="order", hint="Call find_order first.")``
    """

    kind: str
    hint: str = ""
    optional: bool = False
    consume: bool = False
    _advice: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.name(self.kind, "kind", "RequireFact")
        flag(self.optional, "optional", "RequireFact")
        flag(self.consume, "consume", "RequireFact")
        kind = one_line(self.kind, 60)
        default = f"Look the {kind} up first, with a tool that returns it, and use exactly the id that it returns."
        object.__setattr__(self, "hint", hint_text(self.hint, "RequireFact"))
        object.__setattr__(self, "_advice", self.hint or default)

    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        present = self.present(arguments, self.optional)
        if self.consume:
            ids = {values.fact_id(value) for value in present}
            known = len(ids) == len(present) and all(session.hold_fact(self.kind, value) for value in present)
        else:
            known = all(session.has_fact(self.kind, value) for value in present)
        if not known:
            message = f"must be an id of kind {one_line(self.kind, 60)} that is known to this session and still valid."
            raise self.refusal("MISSING_FACT", message, {"kind": self.kind}, self._advice)


@dataclass(frozen=True)
class CumulativeLimit(ArgumentRule):
    """The sum of ``arg`` over all successful calls of the session must not exceed ``max``.

    Calls under way count too, so concurrent calls cannot exceed it together; the amount of a call that fails goes
    back. Sums are exact. A number below zero never passes. The sum is per tool and ``arg``, unless rules share one
    under a ``name``; it is forgotten a day after it was last added to. Refuses with ``CUMULATIVE_LIMIT_EXCEEDED``.

    Example: ``CumulativeLimit("amount", max=500, name="refunds")``
    """

    max: float | Decimal
    name: str | None = None
    optional: bool = False
    _max: Decimal = field(init=False, repr=False, compare=False, default=facts.ZERO)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_max", amount_setting(self.max, "max", "CumulativeLimit"))
        if self._max < 0:
            raise ActGuardUsageError("CumulativeLimit: max must not be below 0", field="max")
        if self.name is not None:
            checks.name(self.name, "name", "CumulativeLimit")
        flag(self.optional, "optional", "CumulativeLimit")

    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        amounts = [values.number(value) for value in self.present(arguments, self.optional)]
        tally = ("argument", session.tool, self.arg) if self.name is None else ("shared", self.name)
        known = [amount for amount in amounts if amount is not None and amount >= 0]
        if len(known) < len(amounts) or not session.hold_amount(tally, facts.exact_sum(known), self._max):
            message = f"must be a number, and together with earlier calls of this session at most {self.max}."
            raise self.refusal("CUMULATIVE_LIMIT_EXCEEDED", message, {"max": self.max, "name": self.name})


@dataclass(frozen=True)
class RequireCall(Rule):
    """The tool named ``tool`` must have succeeded in this session before. Refuses with ``MISSING_CALL``.

    Example: ``RequireCall("kyc_check")``
    """

    tool: str
    hint: str = ""

    def __post_init__(self) -> None:
        checks.name(self.tool, "tool", "RequireCall")
        object.__setattr__(self, "hint", hint_text(self.hint, "RequireCall"))

    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        if not session.has_succeeded(self.tool):
            tool = one_line(self.tool, 100)
            message = f"{tool} must have succeeded in this session first."
            raise GuardError("MISSING_CALL", message, {"required_tool": tool}, self.hint or f"Call {tool} first.")


class _Rules(Rule):
    """Several rules as one."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = checked_rules(rules, type(self).__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.rules))})"

    def validate(self, parameters: Collection[str]) -> None:
        for rule in self.rules:
            rule.validate(parameters)


class AllOf(_Rules):
    """All of ``rules`` must pass, in this order. Refuses with the refusal of the first that does not.

    Example: ``AllOf(RequireCall("kyc_check"), Threshold("amount", max=10_000))``
    """

    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        mark = session.mark()
        try:
            for rule in self.rules:
                rule.check(arguments, session)
        except BaseException:
            session.release(mark)
            raise


class AnyOf(_Rules):
    """At least one of ``rules`` must pass; they are tried in this order.

    Refuses with the code that all of them gave, or with ``NO_ALTERNATIVE`` when they gave different ones.

    Example: ``AnyOf(Threshold("amount", max=100), RequireFact("approval_id", kind="approval"))``
    """

    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        refusals = []
        for rule in self.rules:
            mark = session.mark()
            try:
                return rule.check(arguments, session)
            except GuardError as refusal:
                session.release(mark)
                refusals.append(refusal)
            except BaseException:
                session.release(mark)
                raise
        codes = [refusal.code for refusal in refusals]
        message = " Or: ".join(one_line(str(refusal), 120) for refusal in refusals)
        hint = next((refusal.fix_hint for refusal in refusals if refusal.fix_hint), None)
        code = codes[0] if len(set(codes)) == 1 else "NO_ALTERNATIVE"
        raise GuardError(code, message, {"alternatives": codes}, hint)


def checked_rules(rules: object, what: str) -> tuple[Rule, ...]:
    """``rules`` (one rule, or several) as a tuple.

    Raises:
        ActGuardUsageError: there is none, one of them is no `Rule`, or its ``check`` is a coroutine function, which
            would never be awaited and so refuse nothing.
    """
    given = (rules,) if isinstance(rules, Rule) else tuple(rules) if isinstance(rules, Iterable) else ()
    for rule in given:
        if not isinstance(rule, Rule):
            raise ActGuardUsageError(f"{what}: {type(rule).__name__} is no Rule", field="rules")
        if inspect.iscoroutinefunction(rule.check):
            raise ActGuardUsageError(
                f"{what}: check of {type(rule).__name__} must be a plain function, not async", field="rules"
            )
    if not given:
        raise ActGuardUsageError(f"{what}: rules must be a Rule, or several", field="rules")
    return given
