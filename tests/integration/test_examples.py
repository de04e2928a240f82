"""Every file in examples/ runs offline, without a warning, and prints what it promises."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))
WATCHDOG_S = 240

RUNNER = """
import contextlib, io, json, pathlib, runpy, sys, traceback, warnings
warnings.filterwarnings("ignore", "Inheritance class AiohttpClientSession", DeprecationWarning)  # google-genai's own
for path in sys.argv[1:]:
    out, problem = io.StringIO(), None
    sys.argv = [path]
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        problem = None if end.code in (None, 0) else f"exit code {end.code}"
    except BaseException:
        problem = traceback.format_exc()
    print(json.dumps([pathlib.Path(path).name, out.getvalue(), problem]), flush=True)
"""
"""All in one process, which is not ours: SDKs are imported once, and what hangs is ended by the watchdog."""

PROMISES = {
    "async_budget.py": ["Stopped: The budget is used up: 0.005265 of 0.005 USD", "crossed the limit: a church"],
    "sync_budget.py": ["1040 of 1000 tokens used", "question 3: refused.", "billed 1040 tokens in 2 calls"],
    "nested_scopes.py": ["research   gpt-5.4-mini   4 calls 0.011700 USD", "total      0.017550 of 0.05 USD"],
    "streaming.py": ["all of them arrived: True", "of 4,000 tokens", "of which estimated"],
    "telemetry_subscriber.py": ["shop.greeted: {'by': 'gpt-5.4-nano'}", "3 × llm.usage success", "1 × run.end blocked"],
    "guard_rate_limit.py": ["the model reads:    Blocked: ", "sent to bob: one", "inside the block"],
    "guard_circuit_breaker.py": ["refused: Blocked: crm is failing", "alice@example.com is now called Alicia"],
    "guard_idempotent_payment.py": ["['receipt 1', 'receipt 1', 'receipt 1']", "['INV-1: 40 EUR', 'INV-2: 7 EUR']"],
    "guard_airline_refund.py": ["CUMULATIVE_LIMIT_EXCEEDED ", "refunded: ['KX7PQ2', 'M3LLA9']\n"],
    "guard_approvals.py": ["200 EUR paid to Alice", "Ask Carol about payments", "there is nobody to ask"],
    "guard_everything.py": ["guard.intervention order idempotent", "guard.blocked reserve circuit_breaker"],
    "gateway_run.py": [
        "grants 0.02 USD",
        "bob: Your balance is 0.00 USD.",
        "with 3 calls",
        "run.end         bob    blocked",
    ],
    "gateway_spool.py": ["ended with 9. In the spool: 1 × settlement, ", "'cost_cu': 250", "in the spool: nothing"],
    "own_prices.py": ["refused (UNPRICED_MODEL)", "azure:support-desk: 1 call, 0.003480 USD", "total: 0.004105 USD"],
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """Output and problem of each example, by its name."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, *(str(EXAMPLES / name) for name in NAMES)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    return {name: (out, problem, ran.stderr) for name, out, problem in lines}


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_prints_what_it_promises(name: str, outcomes: dict[str, Any]) -> None:
    out, problem, _ = outcomes[name]
    assert problem is None, problem
    assert out.strip()
    for promise in PROMISES.get(name, ()):
        assert promise in out


def test_nothing_complains_meanwhile(outcomes: dict[str, Any]) -> None:
    assert {errors for _, _, errors in outcomes.values()} == {""}


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_shows_and_how_to_run_it(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((EXAMPLES / name).read_text())) or ""
    assert f"python examples/{name}" in docstring


def test_the_budget_examples_are_there() -> None:
    assert PROMISES.keys() <= set(NAMES)
