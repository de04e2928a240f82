"""The command ``actguard``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from actguard import __version__
from actguard.demo import command as demo


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``actguard`` with ``argv`` (the process's own arguments when omitted); the exit code.

    Example: ``main(["demo", "--fast"])``.
    """
    parser = argparse.ArgumentParser(prog="actguard", description="Keeps AI agents inside the money they may spend.")
    parser.add_argument("--version", action="version", version=f"actguard {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo.add_arguments(commands.add_parser("demo", help="an agent inside a budget, to watch"))
    options = parser.parse_args(argv)
    exit_code: int = options.run(options)
    return exit_code
