"""A rate limit: refused or waiting, per tool or per value of an argument.

Run it:    python examples/guard_rate_limit.py    (offline)
"""

from __future__ import annotations

import asyncio
import time

import actguard
from actguard.exceptions import RateLimitExceeded


@actguard.rate_limit(max_calls=2, period=60, scope="user_id")
def send_mail(user_id: str, text: str) -> str:
    """Two mails a minute for each user; a third is refused."""
    return f"sent to {user_id}: {text}"


@actguard.rate_limit(max_calls=5, period=0.5, on_limit="wait")
async def search(query: str) -> float:
    """Five searches in any half second; those that are too many wait their turn, first come, first served."""
    return time.monotonic()


async def main() -> None:
    for text in ("one", "two", "three"):
        try:
            print(send_mail("alice", text))
        except RateLimitExceeded as refused:
            print("the operator reads:", refused)
            print("the model reads:   ", refused.to_prompt())
    print(send_mail("bob", "one"))

    begin = time.monotonic()
    ends = await asyncio.gather(*(search(f"query {number}") for number in range(12)))
    print(f"12 searches, of which {sum(end - begin < 0.4 for end in ends)} went on at once")
    assert max(ends) - begin >= 1.0  # the last two came after two periods

    # A block of code, under a limit that all blocks with this key share.
    async with actguard.rate_limit(max_calls=5, period=60, key="alice"):
        print("inside the block")


asyncio.run(main())
