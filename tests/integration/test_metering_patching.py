"""Patching: at once, on import, from any thread, once, and undone. The mechanics, on a little SDK made for it."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from actguard.integrations.patching import PatchSet, Target

SDK = """
class Client:
    def request(self):
        return "answer"
"""


class Sdk:
    """A package on disk that is not imported yet, and patches for it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / name
        self.path.mkdir()
        (self.path / "__init__.py").write_text("")
        self.write(SDK)
        self.patches = PatchSet({f"{name}.client": self.targets})
        self.seen: list[str] = []

    def write(self, code: str) -> None:
        (self.path / "client.py").write_text(textwrap.dedent(code))
        importlib.invalidate_caches()

    def targets(self, module: ModuleType) -> list[Target]:
        return [Target(module.Client, "request", self.hook)]

    def hook(self, original: Any, *, switch: Any) -> Any:
        @wraps(original)
        def request(client: Any) -> Any:
            if switch.applied:
                self.seen.append("call")
            return original(client)

        return request

    def load(self) -> Any:
        return importlib.import_module(f"{self.name}.client")

    def calls_seen(self) -> int:
        """How often one call is seen."""
        self.seen.clear()
        assert self.load().Client().request() == "answer"
        return len(self.seen)


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Sdk]:
    monkeypatch.syspath_prepend(str(tmp_path))
    sdk = Sdk(tmp_path, f"sdk_{abs(hash(request.node.name))}")
    yield sdk
    sdk.patches.undo()
    for name in [name for name in sys.modules if name.startswith(sdk.name)]:
        del sys.modules[name]


def test_what_is_imported_is_patched_at_once(sdk: Sdk) -> None:
    sdk.load()
    sdk.patches.apply()
    assert sdk.calls_seen() == 1


def test_what_is_imported_later_is_patched_then(sdk: Sdk) -> None:
    sdk.patches.apply()
    assert f"{sdk.name}.client" not in sys.modules
    assert sdk.calls_seen() == 1


def test_an_object_that_exists_already_is_patched(sdk: Sdk) -> None:
    client = sdk.load().Client()
    sdk.patches.apply()
    client.request()
    assert sdk.seen == ["call"]


def test_what_another_thread_imports_is_patched(sdk: Sdk) -> None:
    sdk.patches.apply()
    thread = threading.Thread(target=sdk.load)
    thread.start()
    thread.join()
    assert sdk.calls_seen() == 1


def test_what_another_thread_is_importing_just_now_is_patched(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = ModuleType("gates_of_the_test")
    gates.started, gates.go_on = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, gates.__name__, gates)
    sdk.write(f"from {gates.__name__} import started, go_on\nstarted.set()\nassert go_on.wait(10)\n{SDK}")
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(sdk.load)
        assert gates.started.wait(10)
        patching = pool.submit(sdk.patches.apply)
        gates.go_on.set()
        loading.result(10)
        patching.result(10)
    assert sdk.calls_seen() == 1


def test_many_threads_patch_once(sdk: Sdk) -> None:
    with ThreadPoolExecutor(16) as pool:
        for job in [pool.submit(work) for _ in range(8) for work in (sdk.patches.apply, sdk.load)]:
            job.result(10)
    assert sdk.calls_seen() == 1


def test_patching_twice_patches_once(sdk: Sdk) -> None:
    sdk.patches.apply()
    sdk.load()
    sdk.patches.apply()
    assert sdk.calls_seen() == 1


def test_a_module_that_is_reloaded_is_patched_again(sdk: Sdk) -> None:
    sdk.patches.apply()
    importlib.reload(sdk.load())
    assert sdk.calls_seen() == 1


def test_undo_puts_the_original_back(sdk: Sdk) -> None:
    original = sdk.load().Client.request
    sdk.patches.apply()
    assert sdk.load().Client.request is not original
    sdk.patches.undo()
    assert sdk.load().Client.request is original
    assert sdk.calls_seen() == 0


def test_undo_stops_watching_imports(sdk: Sdk) -> None:
    finders = list(sys.meta_path)
    sdk.patches.apply()
    sdk.patches.undo()
    assert sys.meta_path == finders
    assert sdk.calls_seen() == 0


def test_what_is_undone_can_be_patched_again(sdk: Sdk) -> None:
    for _ in range(3):
        sdk.patches.apply()
        assert sdk.calls_seen() == 1
        sdk.patches.undo()
        assert sdk.calls_seen() == 0


def test_a_wrapper_of_another_tool_survives_the_undo_and_ours_inside_it_is_off(sdk: Sdk) -> None:
    module = sdk.load()
    sdk.patches.apply()
    inner = module.Client.request

    def theirs(client: Any) -> Any:
        return inner(client)

    module.Client.request = theirs
    sdk.patches.undo()
    assert module.Client.request is theirs
    assert sdk.calls_seen() == 0

    sdk.patches.apply()
    assert module.Client.request is theirs
    assert sdk.calls_seen() == 1


def test_a_patched_module_looks_as_if_it_were_not(sdk: Sdk) -> None:
    sdk.patches.apply()
    module = sdk.load()
    assert isinstance(module.__loader__, importlib.machinery.SourceFileLoader)
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert "class Client" in inspect.getsource(module)
    assert module.Client.request.__name__ == "request"


def test_an_sdk_that_is_not_there_is_not_found(sdk: Sdk) -> None:
    patches = PatchSet({"sdk_that_is_not_there": sdk.targets})
    patches.apply()
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("sdk_that_is_not_there")
    finally:
        patches.undo()


def test_an_import_that_fails_raises_its_own_error_and_can_be_repeated(sdk: Sdk) -> None:
    sdk.write("raise OSError('half an installation')")
    sdk.patches.apply()
    with pytest.raises(OSError, match="half an installation"):
        sdk.load()
    sdk.write(SDK + "# complete")
    assert sdk.calls_seen() == 1


def test_an_sdk_without_the_method_is_imported_all_the_same(sdk: Sdk, caplog: pytest.LogCaptureFixture) -> None:
    sdk.write("class Client: pass")
    sdk.patches.apply()
    assert sdk.load().Client
    [record] = caplog.records
    assert "patch failed" in record.message
    assert "not counted" in record.message


def test_another_import_hook_that_asks_all_finders_does_not_loop(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Curious:
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != f"{sdk.name}.client":
                return None
            others = [finder for finder in sys.meta_path if finder is not self]
            found = (finder.find_spec(fullname, path, target) for finder in others)
            return next((spec for spec in found if spec is not None), None)

    sdk.patches.apply()
    monkeypatch.setattr(sys, "meta_path", [Curious(), *sys.meta_path, Curious()])
    assert sdk.calls_seen() == 1


# --- the real SDKs, each in an interpreter of its own


def run_script(code: str) -> str:
    """What a script prints in a fresh interpreter."""
    script = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(script, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.mark.parametrize("sdk_module", ["openai", "anthropic", "google.genai"])
def test_an_sdk_that_is_imported_inside_a_scope_is_patched_and_no_other_is_imported(sdk_module: str) -> None:
    printed = run_script(
        f"""
        import sys, actguard.client
        sdks = ("openai", "anthropic", "google.genai")
        client = actguard.client.Client()
        with client.run(), client.budget_guard(usd_limit=1):
            print([sdk for sdk in sdks if sdk in sys.modules])
            __import__("{sdk_module}")
            print([sdk for sdk in sdks if sdk in sys.modules])
            import actguard.providers
            print(len(actguard.integrations._patches._patches) > 0)
            actguard.providers.unpatch()
            print(len(actguard.integrations._patches._patches))
        """
    )
    assert printed.splitlines() == ["[]", f"['{sdk_module}']", "True", "0"]


def test_providers_can_be_unpatched_and_patched_by_the_next_scope() -> None:
    printed = run_script(
        """
        import openai
        from openai._base_client import AsyncAPIClient, SyncAPIClient
        from actguard import providers
        from actguard.client import Client

        originals = SyncAPIClient.request, AsyncAPIClient.request
        client = Client()
        for _ in range(2):
            with client.run(), client.budget_guard(usd_limit=1):
                print(providers.is_patched(), SyncAPIClient.request is originals[0])
            providers.unpatch()
            print(providers.is_patched(), (SyncAPIClient.request, AsyncAPIClient.request) == originals)
        """
    )
    assert printed.splitlines() == ["True False", "False True"] * 2
