"""Provider SDKs: where to hook them, and how to read their requests and answers.

`patch` is called when the first budget scope is entered. It imports no SDK.
"""

from __future__ import annotations

from actguard.integrations import anthropic_routes, google, openai
from actguard.integrations.patching import PatchSet

_patches = PatchSet({**openai.MODULES, **anthropic_routes.MODULES, **google.MODULES})


def patch() -> None:
    """Meter the provider SDKs of this process: those imported, and those that will be.

    Thread-safe and idempotent; costs next to nothing after the first time. Called on entering a budget scope.
    """
    _patches.apply()


def unpatch() -> None:
    """Put the SDKs' own methods back. Scopes that are open no longer see provider calls; `patch` turns it on again."""
    _patches.undo()


def is_patched() -> bool:
    """True between `patch` and `unpatch`."""
    return _patches.applied
