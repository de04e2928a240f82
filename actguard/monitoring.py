"""Telling the program that something beside its calls does not work, without getting in their way."""

from __future__ import annotations

import logging
import warnings

from actguard.exceptions import ActGuardMonitoringWarning, MonitoringDegradedError

logger = logging.getLogger("actguard")


def warn(error: MonitoringDegradedError, *, stacklevel: int = 1) -> None:
    """Show an `ActGuardMonitoringWarning` for ``error``. Never raises: where warnings are errors, it is logged."""
    try:
        warnings.warn(ActGuardMonitoringWarning(error), stacklevel=stacklevel + 1)
    except ActGuardMonitoringWarning:
        logger.warning("%s", error)
