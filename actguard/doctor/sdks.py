"""Which provider SDKs are installed, and whether their calls are counted.

That is not read off the patched classes but tried: a fresh interpreter enters a budget, imports the SDK, and makes a
plain and an asynchronous call with it to a provider on this machine. See `actguard.doctor.probe`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from actguard.doctor.deadline import Deadline
from actguard.doctor.findings import Finding, ok, problem, warning
from actguard.exceptions import one_line


@dataclass(frozen=True, slots=True)
class Sdk:
    """One provider's SDK, and the versions of it that ActGuard is tested with."""

    name: str
    """Which is also the extra of ActGuard that installs it."""
    package: str
    oldest: str
    newest: str


SDKS = (
    Sdk("openai", "openai", "1.76", "3.54"),
    Sdk("anthropic", "anthropic", "0.83", "2.12"),
    Sdk("google", "google-genai", "0.8", "3.4"),
)
PROBE = "actguard.doctor.probe"
Probes = dict[str, "subprocess.Popen[str]"]


@contextmanager
def probing() -> Iterator[Probes]:
    """Start a probe of each SDK that is installed; those that still run at the end are killed."""
    probes = {sdk.name: _started(sdk) for sdk in SDKS if _version(sdk) is not None}
    try:
        yield probes
    finally:
        for process in probes.values():
            process.kill()
            process.communicate()


def check_sdks(probes: Probes, deadline: Deadline) -> list[Finding]:
    """What is installed, and what the probes say."""
    findings = []
    for sdk in SDKS:
        version = _version(sdk)
        if version is None:
            findings.append(ok(sdk.package, "not installed"))
            continue
        findings.append(_supported(sdk, version))
        findings.append(_counted(sdk, probes[sdk.name], deadline))
    if not probes:
        findings.append(
            warning(
                "calls",
                "no provider SDK is installed here, so no call is counted",
                "Run this with the interpreter of your program, or install one: pip install 'actguard[openai]'. "
                "Other costs are charged with actguard.add_cost.",
            )
        )
    return findings


def _version(sdk: Sdk) -> str | None:
    try:
        return metadata.version(sdk.package)
    except metadata.PackageNotFoundError:
        return None


def _supported(sdk: Sdk, version: str) -> Finding:
    numbers, oldest, newest = _numbers(version), _numbers(sdk.oldest), _numbers(sdk.newest)
    if numbers < oldest:
        return problem(
            sdk.package,
            f"{version} is older than {sdk.oldest}, the oldest version whose calls are counted surely",
            f"Update it: pip install --upgrade '{sdk.package}>={sdk.oldest}'",
        )
    if numbers[:1] > newest[:1]:
        return warning(
            sdk.package,
            f"{version} is newer than any version that this ActGuard was tested with (up to {sdk.newest})",
            "Update ActGuard: pip install --upgrade actguard. Until then trust the next line, which has tried it.",
        )
    if numbers[: len(newest)] > newest:
        return ok(sdk.package, f"{version} (tested from {sdk.oldest} to {sdk.newest}, and this is a little newer)")
    return ok(sdk.package, f"{version} (tested from {sdk.oldest} to {sdk.newest})")


def _numbers(version: str) -> tuple[int, ...]:
    """``"1.76.0rc1"`` as ``(1, 76, 0)``."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _started(sdk: Sdk) -> subprocess.Popen[str]:
    # Without the current directory on its path (-P): a file there that is called like a module would be imported.
    command = [sys.executable, "-P", "-m", PROBE, sdk.name]
    environment = {**os.environ, "PYTHONWARNINGS": "default", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.Popen(  # noqa: S603  our own module, in the interpreter that runs us
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _counted(sdk: Sdk, process: subprocess.Popen[str], deadline: Deadline) -> Finding:
    check = f"{sdk.package} calls"
    try:
        output, _ = process.communicate(timeout=deadline.left())
    except subprocess.TimeoutExpired:
        return warning(check, "could not be tried in the time given", "Give more time: --timeout 120")
    try:
        said: dict[str, Any] = json.loads(output)
    except ValueError:
        return problem(
            check,
            f"an interpreter that tried one ended with exit code {process.returncode}",
            f"See why: {os.path.basename(sys.executable)} -m {PROBE} {sdk.name}",
        )
    if said["error"] is not None:
        return problem(
            check,
            f"could not be tried: {one_line(said['error'], 300)}",
            f"Install it anew: pip install --force-reinstall '{sdk.package}>={sdk.oldest}'",
        )
    if said["counted"] < said["made"]:
        return problem(
            check,
            f"{said['counted']} of {said['made']} were counted"
            + "".join(f"; {one_line(each, 300)}" for each in said["warnings"]),
            f"Use a tested version of {sdk.package} ({sdk.oldest} to {sdk.newest}), or a newer ActGuard; and see "
            "whether another tool that patches the SDK is loaded.",
        )
    return ok(check, "are counted: a plain and an asynchronous one were tried, on this machine")
