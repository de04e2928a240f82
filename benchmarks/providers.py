"""What a budget scope adds to calls of the OpenAI SDK (which answers at once here)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import peers
from benchmarks.compare import Series, Worker, added, alternately, ratio, workers
from benchmarks.figures import Absent, Figure, Result

CHUNKS = 1000
BUDGET_PEERS = ("agentbudget", "floe-guard", "agentguard47")


def main(quick: bool) -> Iterator[Result]:
    rounds = 9 if quick else 41
    with workers("now", "earlier") as (now, earlier):
        yield from _plain_calls(now, earlier, rounds)
        streams = [now.case("provider_calls:read_stream", depth=depth) for depth in (1, 0)]
        metered, bare = alternately(streams, rounds)
        yield added("added to each chunk of a stream, sync", metered, bare, 2.0, per=CHUNKS)
        methods = [now.case("provider_calls:bare_method", patched=patched) for patched in (True, False)]
        patched, bare = alternately(methods, rounds)
        yield added("added to the SDK's method outside of any scope", patched, bare, 0.5)
        yield from _peers(now, rounds)


def _plain_calls(now: Worker, earlier: Worker, rounds: int) -> Iterator[Figure]:
    cases = [worker.case("provider_calls:plain_call", depth=depth) for worker in (now, earlier) for depth in (1, 0)]
    ours, ours_bare, theirs, theirs_bare = alternately(cases, rounds)
    yield Figure("a call that answers at once, not in a scope", ours_bare.us, "µs")
    yield added("added to a non-streaming call, priced, one usd_limit", ours, ours_bare, 80.0)
    earlier_note = "which has no prices without a gateway"
    yield added(f"actguard 1.0.2: added to the same call, {earlier_note}", theirs, theirs_bare, None)
    differences = [
        [one - other for one, other in zip(with_it.rounds, bare.rounds, strict=True)]
        for with_it, bare in ((ours, ours_bare), (theirs, theirs_bare))
    ]
    ours_added, theirs_added = map(Series, differences)
    yield ratio("added to a non-streaming call / actguard 1.0.2", ours_added, theirs_added, 0.8)


def _peers(now: Worker, rounds: int) -> Iterator[Result]:
    absent = peers.absent()
    for peer in BUDGET_PEERS:
        if peer in absent:
            yield Absent(peer, absent[peer])
            continue
        (series,) = alternately([now.case("budget_peers:peer", name=peer)], rounds)
        yield Figure(f"{peer}: counting a call by hand", series.us, "µs", note="float dollars, no hook, no events")
