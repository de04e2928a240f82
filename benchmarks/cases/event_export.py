"""Emitting events that go to a gateway. Runs with ActGuard and with ActGuard 1.0.2."""

from __future__ import annotations

from timed import Block

import actguard


def export(url: str, category: str, name: str) -> Block:
    """Emits so many events in one run and closes the client, which delivers them. ActGuard 1.0.2 exports events under
    its own names only, and ActGuard leaves those to itself."""

    def block(count: int) -> float:
        client = actguard.Client(
            api_key="bench", gateway_url=url, event_mode="verbose", max_queue_events=2 * count, event_timeout_s=60
        )
        with client.run(user_id="alice"):
            for number in range(count - 2):  # run.start and run.end are the other two
                actguard.emit_event(category, name, {"number": number}, outcome="blocked")
        client.close()
        return 0.0

    return block
