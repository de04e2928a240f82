"""Programs of their own: what only shows in a fresh interpreter, at its exit, or after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

WATCHDOG_S = 60
ROOT = Path(__file__).resolve().parent.parent


def output_of(script: str, *options: str) -> list[str]:
    """The lines that ``script`` prints; it must end by itself, with 0, and without a word on stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()
