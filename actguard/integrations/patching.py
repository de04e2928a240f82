"""Patching SDK classes where they are, or when they are imported, and undoing it.

An integration names a module of its SDK and a function that says which methods to wrap. A module that is imported
already is patched at once; one that is not is patched when the program imports it. Nothing is imported for it.

This module owns the patch registry, which with the ContextVars is all the global state there is.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from actguard.integrations.degraded import NOT_COUNTED, report
from actguard.integrations.metering import Switch


class Wrap(Protocol):
    """Makes the function that takes the original's place. ``switch.applied`` says whether it is on."""

    def __call__(self, original: Any, *, switch: Switch) -> Any: ...


@dataclass(frozen=True, slots=True)
class Target:
    """One method to wrap."""

    owner: type
    name: str
    wrap: Wrap


TargetsOf = Callable[[ModuleType], Iterable[Target]]
"""What to wrap in a module of an SDK, asked right after the module is imported."""


@dataclass(slots=True)
class _Patch:
    owner: type
    name: str
    original: Any
    replacement: Any

    @property
    def in_place(self) -> bool:
        return self.owner.__dict__.get(self.name) is self.replacement


class PatchSet:
    """The patches of one set of modules: applied together, undone together. Thread-safe.

    Example:
        ``patches = PatchSet({"openai._base_client": targets}); patches.apply(); …; patches.undo()``
    """

    def __init__(self, modules: dict[str, TargetsOf]) -> None:
        self._modules = modules
        self._lock = threading.RLock()
        self._patches: list[_Patch] = []
        self._missing = dict(modules)
        self._finder = _Finder(self)
        self.applied = False
        """True between `apply` and `undo`; read without the lock."""

    def apply(self) -> None:
        """Patch what is imported, and have the rest patched when it is. Costs next to nothing after the first time."""
        if not self.applied:
            with self._lock:
                if not self.applied:
                    sys.meta_path.insert(0, self._finder)
                    self.applied = True
        # Every time, for a module whose import was under way, past its finders, when ours was put in place. Outside
        # the lock: this may wait for the import lock of a module, whose holder waits for ours in `patch_module`.
        for name in tuple(self._missing):
            if (module := _imported(name)) is not None and not _initializing(module):
                self.patch_module(name, module)

    def undo(self) -> None:
        """Put the original methods back and stop watching imports.

        A method that another tool has wrapped since stays wrapped by that tool; ours in its middle does nothing.
        """
        with self._lock:
            self.applied = False
            if self._finder in sys.meta_path:
                sys.meta_path.remove(self._finder)
            for patch in self._patches:
                if patch.in_place:
                    setattr(patch.owner, patch.name, patch.original)
            self._patches = [patch for patch in self._patches if _inside_another(patch)]
            self._missing = dict(self._modules)

    def awaits(self, module_name: str) -> bool:
        """True when ``module_name`` has something to patch."""
        return module_name in self._modules

    def patch_module(self, name: str, module: ModuleType) -> None:
        """Wrap the targets of ``module``, each at most once. Never raises: an SDK that looks odd still imports."""
        with self._lock:
            if not self.applied:
                return
            self._missing.pop(name, None)
            try:
                for target in self._modules[name](module):
                    self._wrap(target)
            except Exception as problem:  # noqa: BLE001  the user's import must not fail for us
                report("patch", name, problem, NOT_COUNTED)

    def _wrap(self, target: Target) -> None:
        if any(patch.owner is target.owner and patch.name == target.name for patch in self._patches):
            return
        original = target.owner.__dict__[target.name]
        replacement = target.wrap(original, switch=self)
        setattr(target.owner, target.name, replacement)
        self._patches.append(_Patch(target.owner, target.name, original, replacement))


def _inside_another(patch: _Patch) -> bool:
    """After an undo: is ours inside a wrapper of another tool? Then it must not be applied a second time."""
    return patch.owner.__dict__.get(patch.name) is not patch.original


def _imported(name: str) -> ModuleType | None:
    """The module if it is imported; waits when another thread is just importing it."""
    module = sys.modules.get(name)
    if module is not None and _initializing(module):
        # It is being imported, so this imports nothing more: it waits for the import lock of that module.
        return importlib.import_module(name)
    return module


def _initializing(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing of its own: has the other finders find the awaited modules, and patches them when loaded."""

    def __init__(self, patches: PatchSet) -> None:
        self._patches = patches
        self._asking = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not self._patches.awaits(fullname) or getattr(self._asking, "name", None) == fullname:
            return None
        self._asking.name = fullname  # another tool's finder may ask all finders, us among them
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec: importlib.machinery.ModuleSpec | None = None
                if finder is not self and find is not None:
                    spec = find(fullname, path, target)
                if spec is not None:
                    break
            else:
                return None
        finally:
            self._asking.name = None
        if spec.loader is not None:
            spec.loader = _Loader(self._patches, spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads with the module's own loader, steps out of the way and has the module patched."""

    def __init__(self, patches: PatchSet, loader: Any) -> None:
        self._patches = patches
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._patches.patch_module(module.__name__, module)
