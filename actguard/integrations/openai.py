"""The OpenAI SDK: what is billable and how its answers are read. (Being written.)"""

from __future__ import annotations

from actguard.integrations.patching import TargetsOf

MODULES: dict[str, TargetsOf] = {}
