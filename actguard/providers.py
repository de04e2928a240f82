"""Turning the metering of provider SDKs on and off.

Entering a budget scope patches the OpenAI, Anthropic and Google GenAI SDKs. Programs that need the SDKs as they were
(a test suite, a process that goes on without budgets) undo it.

Example:
    ``actguard.providers.unpatch()``
"""

from __future__ import annotations

from actguard.integrations import is_patched, patch, unpatch

__all__ = ["is_patched", "patch", "unpatch"]
