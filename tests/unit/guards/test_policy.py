"""``policy=`` of `@tool`: allow, deny, ask; and that whatever goes wrong refuses the call."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from conftest import Runner
from guarding import PLAIN_KINDS, fresh, of_kind, outcome, published

from actguard import Ask, Deny, GuardError, ToolCall, session, timeout, tool
from actguard.client import Client
from actguard.events import ApprovalRequested, GuardBlocked
from actguard.exceptions import ActGuardUsageError, ToolTimeoutError
from actguard.guards.tools import name_of

BOTH = pytest.mark.parametrize("policy_kind", ["plain", "async"])
KIND = pytest.mark.parametrize("kind", PLAIN_KINDS)


def policy_of(policy_kind: str, decide: Any) -> Any:
    async def later(call: ToolCall) -> Any:
        await anyio.sleep(0)
        return decide(call)

    return later if policy_kind == "async" else decide


async def code_of(call: Any) -> str:
    with pytest.raises(GuardError) as refused:
        await outcome(call())
    return refused.value.code


@KIND
@BOTH
def test_a_policy_sees_the_call_and_decides(kind: str, policy_kind: str, client: Client, on_loop: Runner) -> None:
    seen: list[ToolCall] = []

    def decide(call: ToolCall) -> Any:
        seen.append(call)
        return {1: "allow", 2: "deny", 3: Deny("Amount 3 is unlucky.")}[call.arguments["args"][0]]

    async def main() -> None:
        seen.clear()
        guarded = tool(policy=policy_of(policy_kind, decide))(of_kind(kind, lambda amount: f"paid {amount}"))
        with client.run() as run, session(fresh()) as chat, published(client, GuardBlocked) as events:
            assert await outcome(guarded(1)) == "paid 1"
            assert await code_of(lambda: guarded(2)) == "POLICY_DENIED"
            with pytest.raises(GuardError, match=r"was not allowed\. Amount 3 is unlucky\.") as refused:
                await outcome(guarded(3))
        assert "unlucky" in refused.value.to_prompt()
        assert (seen[0].tool_name, seen[0].run, seen[0].session) == (name_of(guarded), run, chat)
        assert [event.guard_name for event in events] == ["policy", "policy"]
        assert "unlucky" not in repr(events)

    on_loop(main)


@KIND
@pytest.mark.parametrize("returned", [None, True, False, "yes", 1, object()])
def test_a_policy_that_says_nothing_clear_refuses(kind: str, returned: Any, on_loop: Runner) -> None:
    async def main() -> None:
        guarded = tool(policy=lambda call: returned)(of_kind(kind, lambda: 1 / 0))
        with pytest.raises(ActGuardUsageError, match="must return") as refused:
            await outcome(guarded())
        assert refused.value.field == "policy"

    on_loop(main)


@KIND
@BOTH
def test_a_policy_that_raises_refuses(kind: str, policy_kind: str, on_loop: Runner) -> None:
    async def main() -> None:
        guarded = tool(policy=policy_of(policy_kind, lambda call: call.nothing))(of_kind(kind, lambda: 1 / 0))
        with pytest.raises(AttributeError, match="nothing"):
            await outcome(guarded())

    on_loop(main)


# --- asking ---------------------------------------------------------------------------------------------------------


@KIND
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (True, None),
        ("allow", None),
        (False, "APPROVAL_DENIED"),
        ("deny", "APPROVAL_DENIED"),
        ("Not today.", "APPROVAL_DENIED"),
        (Deny("Not today."), "APPROVAL_DENIED"),
        (None, "APPROVAL_DENIED"),
        (ValueError("broken"), "APPROVAL_FAILED"),
        (GuardError("MINE", "mine"), "MINE"),
    ],
)
def test_an_approver_decides(kind: str, answer: Any, code: str | None, client: Client, on_loop: Runner) -> None:
    requests: list[ApprovalRequested] = []

    def approve(request: ApprovalRequested) -> Any:
        requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def main() -> None:
        client.bus.add_answerer(approve, ApprovalRequested)
        guarded = tool(policy=lambda call: Ask("large"))(of_kind(kind, lambda amount: "paid"))
        name = fresh()
        with client.run(user_id="alice") as run, session(name), published(client, GuardBlocked) as events:
            if code is None:
                assert await outcome(guarded(5)) == "paid"
            else:
                assert await code_of(lambda: guarded(5)) == code
        (request,) = requests
        assert (request.run_id, request.user_id, request.session_id) == (run.run_id, "alice", name)
        assert (request.tool_name, request.reason) == (name_of(guarded), "large")
        assert request.arguments["args"] == (5,)
        assert [event.figures.get("code") for event in events] == (
            [] if code is None else [code] if code != "MINE" else [None]
        )

    on_loop(main)


@KIND
def test_nobody_there_to_ask_denies(kind: str, client: Client, on_loop: Runner) -> None:
    async def main() -> None:
        guarded = tool(policy={"check": lambda call: "ask", "default": "allow"})(of_kind(kind, lambda: 1 / 0))
        assert await code_of(guarded) == "APPROVAL_UNAVAILABLE"  # outside a run
        with client.run(), pytest.raises(GuardError, match="there is nobody to ask") as refused:
            await outcome(guarded())
        assert refused.value.code == "APPROVAL_UNAVAILABLE"

    on_loop(main)


@KIND
@pytest.mark.parametrize("default", ["deny", "allow"])
def test_when_nobody_decides_in_time_the_default_holds(
    kind: str, default: str, client: Client, on_loop: Runner
) -> None:
    release = threading.Event()

    async def main() -> None:
        client.bus.add_answerer(lambda request: release.wait(30), ApprovalRequested)
        policy = {"check": lambda call: "ask", "ask_timeout_s": 0.01, "default": default}
        guarded = tool(policy=policy)(of_kind(kind, lambda: "ran"))
        with client.run():
            if default == "allow":
                assert await outcome(guarded()) == "ran"
            else:
                assert await code_of(guarded) == "APPROVAL_TIMEOUT"

    try:
        on_loop(main)
    finally:
        release.set()


def test_a_deadline_around_it_ends_the_asking(client: Client) -> None:
    release = threading.Event()
    client.bus.add_answerer(lambda request: release.wait(30), ApprovalRequested)
    guarded = timeout(0.02)(tool(policy=lambda call: "ask")(lambda: "ran"))
    with client.run(), pytest.raises(ToolTimeoutError):
        guarded()
    release.set()


def test_asking_can_be_cancelled(client: Client, on_loop: Runner) -> None:
    release = threading.Event()

    async def main() -> None:
        client.bus.add_answerer(lambda request: release.wait(30), ApprovalRequested)
        guarded = tool(policy=lambda call: "ask")(of_kind("coroutine", lambda: 1 / 0))
        with client.run(), anyio.move_on_after(0.01) as scope:
            await guarded()
        assert scope.cancelled_caught

    try:
        on_loop(main)
    finally:
        release.set()


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ("allow", "policy"),
        ({}, "policy.check"),
        ({"check": "allow"}, "check"),
        ({"check": bool, "deadline": 5}, "policy.deadline"),
        ({"check": bool, "ask_timeout_s": 0}, "ask_timeout_s"),
        ({"check": bool, "default": "ask"}, "default"),
    ],
)
def test_a_wrong_setting_is_named(policy: Any, field: str) -> None:
    with pytest.raises(ActGuardUsageError) as refused:
        tool(policy=policy)
    assert refused.value.field == field
