"""What a call to Google's GenAI API did cost that ended in an error."""

from __future__ import annotations

from actguard.integrations.metering import FREE, Outcome, Unknown
from actguard.integrations.transport import was_sent

_RETRIED = frozenset({"TimeoutException", "ClientOSError", "ServerDisconnectedError"})
"""Errors after sending for which the SDK tries again."""


def outcome_of(error: BaseException, attempts: int = 1) -> Outcome:
    """What a call that ended in ``error`` did cost: an error answer nothing, a lost one nobody knows."""
    if isinstance(getattr(error, "code", None), int) and any(
        kind.__name__ == "APIError" for kind in type(error).__mro__
    ):
        return FREE
    if not was_sent(error):
        return FREE
    retried = isinstance(error, Exception) and any(kind.__name__ in _RETRIED for kind in type(error).__mro__)
    return Unknown(attempts if retried else 1)
