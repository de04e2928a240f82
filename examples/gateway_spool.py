"""A spool that survives its process: what could not be delivered is delivered by the next one.

A first process reserves a budget and spends some of it; then the gateway goes down, and the process dies without a
word. Its settlement and its events are in the spool. A second process, when the gateway is back, finds and delivers
them: once, whoever comes next.

Run it:    python examples/gateway_spool.py      (offline: the gateway is on this machine)
For real:  give `actguard.Client` your own gateway, key and spool, a path on a disk that stays.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from contextlib import closing
from pathlib import Path

import actguard
from actguard.testing.gateway import Fault, LoopbackGateway


def first_process(url: str, api_key: str, spool: str) -> None:
    warnings.showwarning = lambda message, *_: print(f"  warned: {message}", flush=True)
    client = actguard.Client(gateway_url=url, api_key=api_key, spool=spool)
    with client.run(user_id="alice"):
        with client.budget_guard(usd_limit=1) as budget:
            actguard.add_cost("web search", usd="0.25")
            print(f"  spent {budget.usd_used} USD; the budget ends, and is to be settled", flush=True)
        print("  the budget has ended all the same, and the run goes on", flush=True)
    client.flush(timeout=1)
    print("  the process dies", flush=True)
    os._exit(9)  # as it would by kill -9: nothing is closed, nothing is said


def waiting(spool: str) -> str:
    """What is in the file; `actguard doctor --only spool --spool FILE` says more."""
    with closing(sqlite3.connect(spool)) as file:
        rows = file.execute("SELECT COUNT(*), kind FROM letters GROUP BY kind ORDER BY kind DESC").fetchall()
    return ", ".join(f"{count} × {kind}" for count, kind in rows) or "nothing"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, LoopbackGateway() as gateway:
        spool = str(Path(folder) / "spool.db")
        for operation in ("settle", "events"):
            gateway.fail(operation, Fault(status=503))  # it reserves, and goes down
        print("the first process:", flush=True)
        arguments = [sys.executable, __file__, gateway.url, gateway.api_key, spool]
        died = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
        print(died.stdout, end="")
        print(f"it has ended with {died.returncode}. In the spool: {waiting(spool)}.")
        arrived = len(gateway.reservations[0].settlements), len(gateway.events)
        print(f"arrived at the gateway: {arrived[0]} settlements, {arrived[1]} events.")

        gateway.heal()
        print("the next process, when the gateway is back:")
        with actguard.Client(gateway_url=gateway.url, api_key=gateway.api_key, spool=spool):
            pass  # closing a client delivers what waits
        (settlement,) = gateway.reservations[0].settlements
        print(f"  settled {gateway.reservations[0].reserve_id}: {settlement['usage_breakdown']}")
        kinds = [f"{event['category']}.{event['name']}" for event in gateway.events]
        print(f"  events: {', '.join(kinds)}")
        print(f"  in the spool: {waiting(spool)}")


if len(sys.argv) > 1:
    first_process(*sys.argv[1:])
else:
    main()
