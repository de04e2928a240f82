"""The public face: the names at the top level, sorted, lazy, documented, and each in its one home."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest
from scripts import ROOT, output_of

import actguard
from actguard import exceptions

CONTRACT = {
    "Client",
    "BudgetGuard",
    "Run",
    "Price",
    "BreakdownRow",
    "add_cost",
    "carry",
    "session",
    "trust",
    "shutdown",
    "emit_event",
    "emit_violation",
    # decorators
    "tool",
    "rate_limit",
    "circuit_breaker",
    "max_attempts",
    "timeout",
    "idempotent",
    "prove",
    "enforce",
    # what policies answer with
    "Ask",
    "Deny",
    "ToolCall",
    # rules
    "Rule",
    "RequireFact",
    "RequireCall",
    "Threshold",
    "CumulativeLimit",
    "BlockRegex",
    "OneOf",
    "AllOf",
    "AnyOf",
    # failures
    "FailureKind",
    "FAIL_ON_DEFAULT",
    "FAIL_ON_STRICT",
    "FAIL_ON_INFRA_ONLY",
    "IGNORE_ON_DEFAULT",
    # errors
    "ActGuardError",
    "ActGuardToolError",
    "ActGuardPaymentRequired",
    "BudgetExceededError",
    "GuardError",
    "MonitoringDegradedError",
    # modules
    "events",
    "exceptions",
    "providers",
    "testing",
}


def test_the_public_names_are_those_of_the_contract() -> None:
    assert set(actguard.__all__) >= CONTRACT - {"IGNORE_ON_STRICT"}
    unknown = set(actguard.__all__) - CONTRACT
    assert unknown <= {"IGNORE_ON_STRICT", "IGNORE_ON_INFRA_ONLY"}, f"public, but not in the list above: {unknown}"


def test_they_are_sorted_and_each_is_there_once() -> None:
    assert sorted(actguard.__all__) == list(actguard.__all__)
    assert len(set(actguard.__all__)) == len(actguard.__all__)


@pytest.mark.parametrize("name", actguard.__all__)
def test_a_public_name_leads_to_its_home_and_is_documented(name: str) -> None:
    value: Any = getattr(actguard, name)
    assert name in dir(actguard)
    if name in actguard._HOMES:
        assert value is getattr(importlib.import_module(actguard._HOMES[name]), name)
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        assert (inspect.getdoc(value) or "").strip()


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        actguard.Clinet  # noqa: B018  # type: ignore[attr-defined]
    assert not hasattr(actguard, "__path_of_nobody__")


def test_names_and_homes_are_the_same() -> None:
    assert set(actguard.__all__) == {*actguard._HOMES, *actguard._MODULES}


def test_a_star_import_gives_them_all() -> None:
    [line] = output_of(
        """
        from actguard import *
        import actguard
        print([name for name in actguard.__all__ if name not in globals()])
        """
    )
    assert line == "[]"


def test_type_checkers_are_shown_the_same_names() -> None:
    source = (ROOT / "actguard" / "__init__.py").read_text("utf-8")
    shown = source.split("if TYPE_CHECKING:")[1].split("__version__")[0]
    assert [name for name in actguard.__all__ if not re.search(rf"\b{name}\b", shown)] == []


def test_warnings_and_all_errors_live_in_exceptions() -> None:
    assert issubclass(exceptions.ActGuardMonitoringWarning, RuntimeWarning)
    for name, value in vars(exceptions).items():
        if inspect.isclass(value) and issubclass(value, BaseException) and not name.startswith("_"):
            assert value.__module__ == "actguard.exceptions"


PARAMETERS = {
    "__init__": (
        "api_key gateway_url allow_insecure_gateway debug event_mode flush_interval_ms max_batch_events "
        "max_batch_bytes max_queue_events timeout_s max_retries budget_timeout_s budget_max_retries event_timeout_s "
        "event_max_retries backoff_base_ms backoff_max_ms"
    ),
    "run": "user_id run_id adopt_threads",
    "budget_guard": (
        "user_id name usd_limit token_limit cost_limit run_id plan_key on_crossing enforcement min_output_tokens "
        "allow_unbounded on_full share"
    ),
    "flush": "timeout",
    "aflush": "timeout",
    "close": "",
    "aclose": "",
    "from_file": "path",
    "from_env": "",
    "stats": "",
    "reserve_budget": "",
    "settle_budget": "",
    "areserve_budget": "",
    "asettle_budget": "",
}


@pytest.mark.parametrize("method", list(PARAMETERS))
def test_the_client_has_the_parameters_of_the_contract(method: str) -> None:
    signature = inspect.signature(getattr(actguard.Client, method))
    missing = set(PARAMETERS[method].split()) - set(signature.parameters)
    assert missing == set()
    if method in ("__init__", "budget_guard"):
        kinds = {p.kind for name, p in signature.parameters.items() if name != "self"}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_the_parameters_of_a_run_can_be_given_by_position() -> None:
    with actguard.Client() as client:
        run = client.run("alice", "r1")
    assert (run.user_id, run.run_id) == ("alice", "r1")
