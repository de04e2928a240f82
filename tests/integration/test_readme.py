"""The README's Python runs as it stands there: against the loopback provider, by the SDKs' own base URL variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import actguard
from actguard.testing import Answer, LoopbackProvider

README = Path(__file__).parents[2] / "README.md"
WATCHDOG_S = 120

PRELUDE = """
import actguard
client = actguard.Client()
plan = sub_agent = lambda: None
"""
"""What the shorter blocks take for granted."""


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


WHOLE = [block for block in blocks() if block.startswith("import ")]
PARTS = [
    block for block in blocks() if not block.startswith(("import ", "async with", "@function_tool")) and block.strip()
]
"""Blocks that can run at the top of a module; examples/ has whole programs for the others."""


def run(code: str, provider: LoopbackProvider) -> str:
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "sk-loopback",
        "OPENAI_BASE_URL": provider.openai_url,
        "NO_PROXY": "127.0.0.1",
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_async_example_is_stopped_by_its_budget() -> None:
    with LoopbackProvider(default=Answer(text="No.", input_tokens=20_000, output_tokens=10_000)) as provider:
        out = run(WHOLE[0], provider)
    assert "The budget is used up: 0.054000 of 0.05 USD" in out
    assert "0.0540 USD in 6 calls" in out
    assert len(provider.requests) == 6


def test_the_script_prints_what_it_spent() -> None:
    with LoopbackProvider(default=Answer(text="A haiku", input_tokens=1_000, output_tokens=100)) as provider:
        out = run(WHOLE[1], provider)
    assert out == "A haiku\n0.000210 USD, 0.049790 USD left\n"


@pytest.mark.parametrize("place", range(len(PARTS)), ids=lambda place: PARTS[place].splitlines()[0])
def test_every_other_block_runs(place: int) -> None:
    with LoopbackProvider() as provider:
        run(PRELUDE + PARTS[place], provider)


def test_it_begins_with_what_it_is_and_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    first, commands = text.split("```sh", 1)
    paragraph = first.split("\n\n")[1].replace("\n", " ")
    assert paragraph.count(". ") == 2
    assert [line.split("#")[0].strip() for line in commands.split("```")[0].strip().splitlines()] == [
        "make demo",
        "make test",
    ]


def test_its_table_of_public_names_is_complete() -> None:
    table = README.read_text(encoding="utf-8").split("## Public names", 1)[1]
    named = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert named == set(actguard.__all__)
