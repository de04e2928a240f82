"""Telling the program that something beside its calls does not work, without getting in their way."""

from __future__ import annotations

import logging
import warnings

from actguard.exceptions import ActGuardMonitoringWarning, MonitoringDegradedError
from actguard.locks import SettlingLock

logger = logging.getLogger("actguard")


def warn(error: MonitoringDegradedError, *, stacklevel: int = 1) -> None:
    """Show an `ActGuardMonitoringWarning` for ``error``. Never raises: where warnings are errors, it is logged."""
    try:
        warnings.warn(ActGuardMonitoringWarning(error), stacklevel=stacklevel + 1)
    except ActGuardMonitoringWarning:
        logger.warning("%s", error)


class Reports:
    """What was warned about already: each kind of problem is shown once, and its traceback logged each time.

    Thread-safe, and safe in finalizers.
    """

    def __init__(self) -> None:
        self._lock = SettlingLock()
        self._kinds: set[tuple[object, ...]] = set()

    def __len__(self) -> int:
        return len(self._kinds)

    def warn(
        self,
        error: MonitoringDegradedError,
        *,
        kind: tuple[object, ...],
        cause: BaseException | None = None,
        stacklevel: int = 1,
    ) -> None:
        """Warn about ``error``, unless something of its ``kind`` was reported before. Never raises.

        The traceback of ``cause`` goes to the log, at level debug.
        """
        if cause is not None:
            logger.debug("%s", error, exc_info=cause)
        with self._lock:
            if kind in self._kinds:
                return
            self._kinds.add(kind)
        warn(error, stacklevel=stacklevel + 1)

    def clear(self) -> None:
        """Forget everything: what comes is shown again."""
        self._kinds.clear()
