"""A process that brings up clients to be killed: run by the tests, not by pytest.

    python gateway_nursery.py URL KEY SPOOL

For each line on its input it forks a child that prints its process id and runs budgets one after the other until it is
killed, and prints "dead" when it is. A child prints the id of a run once the budget scope is left, and so the
settlement accepted, if there was a reservation to settle. Forking a process that has everything imported is what makes
a hundred kills fast.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from importlib import import_module

import actguard
from actguard.money.prices import PriceBook
from actguard.subscribers.link import load


def live(url: str, key: str, spool: str) -> None:
    warnings.simplefilter("ignore")
    client = actguard.Client(
        gateway_url=url,
        api_key=key,
        spool=spool,
        budget_timeout_s=0.1,
        event_timeout_s=0.1,
        event_max_retries=1000,
        backoff_base_ms=2,
        backoff_max_ms=20,
        flush_interval_ms=5,
    )
    while True:
        with client.run(user_id="alice") as run:
            with client.budget_guard(usd_limit=1) as budget:
                actguard.add_cost("step", usd="0.001")
            reserved = "reserved" if budget.tree.reserve_id else "locally."
            os.write(sys.stdout.fileno(), f"{run.run_id} {reserved}\n".encode())


def main() -> None:
    # What `actguard` imports when it is first asked for would else be imported by each child, from whatever the files
    # hold by then: a tree that is being edited made clients die by themselves.
    for name in ("actguard.client", "actguard.gateway.spool", "actguard.subscribers.link", "anyio._backends._asyncio"):
        import_module(name)
    load()
    PriceBook().load()
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                # Said by the child itself, which may have left its first budget before the parent gets round to it.
                print(os.getpid(), flush=True)
                live(*sys.argv[1:])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.waitpid(child, 0)  # until the test has killed it
        print("dead", flush=True)


if __name__ == "__main__":
    main()
