"""The process in which cases run, in an environment of its own: ActGuard 1.0.2 has the same import name as ActGuard.

It is told on standard input, a JSON object a line, and answers the same way:

    {"make": "tool_calls:all_guards", "with": {…}}   makes a case: its block function is kept; answer: its number
    {"run": 0, "count": 1000}                        runs a block of 1,000 calls; answer: what the block returned
    {"drop": 0}                                      forgets a case

A case is a function of a module of this folder that returns a block: a function ``(count)`` which makes so many calls
and returns the seconds they took, or another figure. The same case runs against ActGuard 1.0.2 where both know it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

Block = Callable[[int], Any]


def serve() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    warnings.simplefilter("ignore")
    blocks: dict[int, Block] = {}
    for line in sys.stdin:
        try:
            answer = {"answer": obey(json.loads(line), blocks)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def obey(order: dict[str, Any], blocks: dict[int, Block]) -> Any:
    if "make" in order:
        module, _, name = order["make"].partition(":")
        number = len(blocks)
        blocks[number] = getattr(importlib.import_module(module), name)(**order["with"])
        return number
    if "drop" in order:
        blocks[order["drop"]] = lambda count: None
        return None
    return blocks[order["run"]](order["count"])


if __name__ == "__main__":
    serve()
