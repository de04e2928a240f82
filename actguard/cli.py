"""The command ``actguard``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from actguard import __version__
from actguard.demo import command as demo
from actguard.doctor import command as doctor


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``actguard`` with ``argv`` (the process's own arguments when omitted); the exit code.

    Example: ``main(["demo", "--fast"])``.
    """
    parser = argparse.ArgumentParser(prog="actguard", description="Keeps AI agents inside the money they may spend.")
    parser.add_argument("--version", action="version", version=f"actguard {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo.add_arguments(commands.add_parser("demo", help="an agent inside a budget, to watch"))
    doctor.add_arguments(
        commands.add_parser("doctor", help="is everything in place, and if not, what to do", allow_abbrev=False)
    )
    options = parser.parse_args(argv)
    try:
        exit_code: int = options.run(options)
    except BrokenPipeError:
        # Who read the lines has gone. What Python still wants to flush on its way out goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return exit_code
