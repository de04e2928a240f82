"""Importing and starting, each in a process of its own. Runs with ActGuard and with ActGuard 1.0.2."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from timed import Block

STATEMENTS = {
    "import": "import actguard",
    "client": "import actguard; actguard.Client",
    "tools": "import actguard; actguard.tool; actguard.Client",
}
IMPORT = """
import json, sys, time
clock = time.process_time
started = clock()
{statement}
print(json.dumps([clock() - started, sorted(sys.modules)]))
"""
FIRST_ENTRY = """
import json, sys, time
import openai
import actguard
client = actguard.Client()
before = set(sys.modules)
with client.run():
    budget = client.budget_guard(usd_limit=1)
    wall, own = time.perf_counter(), time.thread_time()
    budget.__enter__()
    wall, own = time.perf_counter() - wall, time.thread_time() - own
    budget.__exit__(None, None, None)
client.close()
print(json.dumps([wall, own, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def _run(program: str) -> Any:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/")
    return json.loads(done.stdout)


def importing(what: str) -> Block:
    """CPU seconds of an import, in a fresh process for each."""
    return lambda count: sum(_run(IMPORT.format(statement=STATEMENTS[what]))[0] for _ in range(count))


def imported(what: str) -> Any:
    """The modules that are loaded by an import."""
    return lambda count: _run(IMPORT.format(statement=STATEMENTS[what]))[1]


def first_entry() -> Any:
    """The first `budget_guard` entry of a program that imported only openai: wall and own CPU seconds, packages."""
    return lambda count: _run(FIRST_ENTRY)
