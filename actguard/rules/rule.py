"""What all rules of ``enforce`` are made from: `Rule`, and `ArgumentRule` for those about one argument."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from actguard.exceptions import ActGuardUsageError, GuardError, one_line, quoted
from actguard.rules import paths, values
from actguard.rules.paths import ABSENT, ArgumentPath
from actguard.rules.session import Session

_LONGEST_HINT = 200


class Rule(ABC):
    """A rule of ``enforce``. Write your own by writing ``check``.

    Example::

        class OnlyOfficeHours(actguard.Rule):
            def check(self, arguments, session):
                if not 9 <= datetime.now().hour < 17:
                    raise actguard.GuardError("OFFICE_CLOSED", "The office is closed.", fix_hint="Try tomorrow at 9.")
    """

    @abstractmethod
    def check(self, arguments: Mapping[str, Any], session: Session) -> None:
        """Return to let the call go on.

        ``arguments`` are the call's, by name, defaults included. What is held through ``session`` is used up when the
        call succeeds, and given back when it does not.

        Raises:
            GuardError: the call is refused.
        """

    def validate(self, parameters: Collection[str]) -> None:  # noqa: B027  most rules of users have nothing to do here
        """Check once, when the tool is decorated, that the rule fits its ``parameters`` (their names).

        Raises:
            ActGuardUsageError: it does not.
        """


@dataclass(frozen=True)
class ArgumentRule(Rule):
    """A rule about one argument, or about a part of it."""

    arg: str
    path: ArgumentPath = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", paths.parse(self.arg, type(self).__name__))

    def validate(self, parameters: Collection[str]) -> None:
        paths.check_parameter(self.path, parameters, type(self).__name__)

    def present(self, arguments: Mapping[str, Any], optional: bool) -> list[Any]:
        """The values to check. An absent one is `ABSENT`, unless it may be absent."""
        found = self.path.values(arguments)
        if len(found) == 1 and found[0] is not None and found[0] is not ABSENT:
            return found
        present = [ABSENT if value is None else value for value in found]
        return [value for value in present if value is not ABSENT] if optional else present

    def refusal(self, code: str, message: str, details: Mapping[str, Any] | None = None, hint: str = "") -> GuardError:
        """The error for this argument: ``message`` is the rest of a sentence that begins with its name."""
        return GuardError(code, f"{self.arg} {message}", {"arg": self.arg, **(details or {})}, hint or None)


def flag(value: object, name: str, what: str) -> None:
    """Make sure that the setting ``name`` is a bool."""
    if not isinstance(value, bool):
        raise ActGuardUsageError(f"{what}: {name} must be True or False", field=name)


def hint_text(value: object, what: str) -> str:
    """The setting ``hint``, as one line of bounded length."""
    if not isinstance(value, str):
        raise ActGuardUsageError(f"{what}: hint must be a str", field="hint")
    return one_line(value, _LONGEST_HINT)


def amount_setting(value: object, name: str, what: str) -> Decimal:
    """The setting ``name``: a finite number."""
    amount = values.number(value)
    if amount is None:
        raise ActGuardUsageError(f"{what}: {name} must be a finite number, not {quoted(value, 40)}", field=name)
    return amount
