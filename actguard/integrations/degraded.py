"""How integrations report that something could not be read, while the user's call goes on."""

from __future__ import annotations

from actguard.exceptions import MonitoringDegradedError
from actguard.monitoring import Reports

reports = Reports()
"""SDKs are patched once per process, so what they do is reported once per process."""

ESTIMATED = "The call goes on; where its usage is unknown, an estimate is charged."
NOT_COUNTED = "Calls go on and are not counted. This version of the SDK may be one that ActGuard does not know yet."


def report(operation: str, provider: str, problem: BaseException, summary: str = ESTIMATED) -> None:
    """Warn, once per kind of problem, that ActGuard could not do ``operation`` for ``provider``, and what follows.

    Never raises, also where warnings are errors.
    """
    failure_kind = type(problem).__name__
    reports.warn(
        MonitoringDegradedError(
            subsystem="integrations",
            operation=operation,
            failure_kind=failure_kind,
            summary=f"{provider}: {summary}",
        ),
        kind=(operation, provider, failure_kind),
        cause=problem,
        stacklevel=3,
    )
