"""Rules about one argument alone: `Threshold`, `OneOf`, `BlockRegex`."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from actguard.exceptions import ActGuardUsageError, quoted
from actguard.rules import paths, patterns, values
from actguard.rules.paths import ABSENT
from actguard.rules.rule import ArgumentRule, amount_setting, flag
from actguard.rules.session import Session

_MOST_SHOWN = 10
_LEAST, _MOST = -(2**53), 2**53


@dataclass(frozen=True)
class Threshold(ArgumentRule):
    """``arg`` must be a number of at most ``max`` and at least ``min``; one of them may be left out.

    Bool, None, text, NaN and infinities never pass. Numbers are compared as they are written: 0.1 is one tenth.
    Refuses with ``THRESHOLD_EXCEEDED``.

    Example: ``Threshold("amount", max=500, min=0)``
    """

    max: float | Decimal | None = None
    min: float | Decimal | None = None
    optional: bool = False
    _max: Decimal | None = field(init=False, repr=False, compare=False, default=None)
    _min: Decimal | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        flag(self.optional, "optional", "Threshold")
        if self.max is None and self.min is None:
            raise ActGuardUsageError("Threshold: max or min must be given", field="max")
        for name in ("max", "min"):
            if getattr(self, name) is not None:
                object.__setattr__(self, f"_{name}", amount_setting(getattr(self, name), name, "Threshold"))
        if self._max is not None and self._min is not None and self._min > self._max:
            raise ActGuardUsageError("Threshold: min must not be more than max", field="min")

    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        for value in self.present(arguments, self.optional):
            # Decimals are compared with an int exactly, so a usual one need not become a Decimal: a third of the check.
            amount = value if type(value) is int and _LEAST < value < _MOST else values.number(value)
            if (
                amount is None
                or (self._max is not None and amount > self._max)
                or (self._min is not None and amount < self._min)
            ):
                bounds = [f"at most {self.max}"] if self.max is not None else []
                bounds += [f"at least {self.min}"] if self.min is not None else []
                message = f"must be a number, {' and '.join(bounds)}."
                raise self.refusal("THRESHOLD_EXCEEDED", message, {"max": self.max, "min": self.min})


@dataclass(frozen=True)
class OneOf(ArgumentRule):
    """``arg`` must be one of ``values``: texts, numbers, bools, None or enum members.

    ``1``, ``"1"`` and ``True`` are three different values. Refuses with ``VALUE_NOT_ALLOWED``.

    Example: ``OneOf("currency", ["EUR", "USD"])``
    """

    values: Collection[Any]
    optional: bool = False
    _allowed: frozenset[Hashable] = field(init=False, repr=False, compare=False, default=frozenset())
    _shown: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        super().__post_init__()
        flag(self.optional, "optional", "OneOf")
        given = self.values
        allowed = [] if isinstance(given, str | bytes) or not isinstance(given, Iterable) else list(given)
        keys = [values.scalar_key(value) for value in allowed]
        if not keys or None in keys:
            raise ActGuardUsageError(
                "OneOf: values must be a list of texts, numbers, bools, None or enum members", field="values"
            )
        shown = ", ".join(quoted(values.plain(value), 40) for value in allowed[:_MOST_SHOWN])
        object.__setattr__(self, "values", tuple(allowed))
        object.__setattr__(self, "_allowed", frozenset(keys))
        object.__setattr__(self, "_shown", shown + (", …" if len(allowed) > _MOST_SHOWN else ""))

    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        for value in self.path.values(arguments):
            if value is ABSENT or value is None:
                allowed = self.optional or (value is None and ("constant", None) in self._allowed)
            else:
                allowed = values.scalar_key(value) in self._allowed
            if not allowed:
                raise self.refusal("VALUE_NOT_ALLOWED", f"must be one of: {self._shown}.")


@dataclass(frozen=True)
class BlockRegex(ArgumentRule):
    """``arg`` must not contain ``pattern`` anywhere: in its text, or in any text, key or field inside it.

    ``pattern`` is a str or a compiled pattern. One that could keep the search busy for ages is refused when the rule is
    made (see `actguard.rules.patterns`). Texts of together more than ``max_length`` characters, or of what is left of
    it for a costly pattern, are refused unsearched. None passes. Refuses with ``PATTERN_BLOCKED``.

    Example: ``BlockRegex("query", r"(?i)drop\\s+table")``
    """

    pattern: Any
    max_length: int = patterns.LONGEST_TEXT
    _matcher: patterns.Matcher = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_matcher", patterns.matcher(self.pattern, self.max_length))

    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        longest = self._matcher.longest
        try:
            blocked = any(map(self._matcher.found_in, paths.texts(self.path.values(arguments), longest)))
        except (paths.Unreadable, UnicodeEncodeError):
            message = f"cannot be checked for blocked content: it must be text of at most {longest} characters."
            raise self.refusal("PATTERN_BLOCKED", message, {"max_length": longest}) from None
        if blocked:
            raise self.refusal("PATTERN_BLOCKED", "contains something that is not allowed there.")
