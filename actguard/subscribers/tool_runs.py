"""The gate for `ToolInvoke`: every guarded tool run is on the bus, few operators want all of them exported."""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLE = "ACTGUARD_EMIT_ALL_TOOL_RUNS"
_YES = frozenset({"1", "true", "yes", "on"})


def exports_tool_runs(environment: Mapping[str, str] | None = None) -> bool:
    """True while ``ACTGUARD_EMIT_ALL_TOOL_RUNS`` says 1, true, yes or on (in any case). Asked for each event anew."""
    environment = os.environ if environment is None else environment
    return environment.get(VARIABLE, "").strip().lower() in _YES
