"""How integrations report that something could not be read, while the user's call goes on."""

from __future__ import annotations

import logging

from actguard.exceptions import MonitoringDegradedError
from actguard.locks import SettlingLock
from actguard.monitoring import warn

logger = logging.getLogger("actguard.integrations")

_reported: set[tuple[str, str, str]] = set()
_lock = SettlingLock()


ESTIMATED = "The call goes on; where its usage is unknown, an estimate is charged."
NOT_COUNTED = "Calls go on and are not counted. This version of the SDK may be one that ActGuard does not know yet."


def report(operation: str, provider: str, problem: BaseException, summary: str = ESTIMATED) -> None:
    """Warn, once per kind of problem, that ActGuard could not do ``operation`` for ``provider``, and what follows.

    Never raises, also where warnings are errors.
    """
    key = (operation, provider, type(problem).__name__)
    with _lock:
        if key in _reported:
            return
        _reported.add(key)
    error = MonitoringDegradedError(
        subsystem="integrations",
        operation=operation,
        failure_kind=type(problem).__name__,
        summary=f"{provider}: {summary}",
    )
    logger.debug("could not %s of %s", operation, provider, exc_info=problem)
    warn(error, stacklevel=3)
