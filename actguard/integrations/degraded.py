"""How integrations report that something could not be read, while the user's call goes on."""

from __future__ import annotations

import logging
import warnings

from actguard.exceptions import ActGuardMonitoringWarning, MonitoringDegradedError
from actguard.locks import SettlingLock

logger = logging.getLogger("actguard.integrations")

_reported: set[tuple[str, str, str]] = set()
_lock = SettlingLock()


def report(operation: str, provider: str, problem: BaseException) -> None:
    """Warn, once per kind of problem, that ActGuard could not do ``operation`` on a call to ``provider``.

    Never raises: where warnings are errors, the warning goes to the log instead of into the user's call.
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
        summary=f"The call to {provider} goes on and is charged with an estimate where its usage is unknown.",
    )
    logger.debug("could not %s of %s", operation, provider, exc_info=problem)
    try:
        warnings.warn(ActGuardMonitoringWarning(error), stacklevel=3)
    except ActGuardMonitoringWarning:
        logger.error("%s", error)
