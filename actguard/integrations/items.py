"""Metering what the Stainless SDKs iterate over, with a meter of one's own: streams of events, and lines of results."""

from __future__ import annotations

import copy
from typing import Any

from actguard.integrations.bodies import notice_close
from actguard.integrations.streams import MeteredAsyncIterator, MeteredIterator, StreamMeter


def meter_items(result: Any, response: Any, decode: str, meter: StreamMeter) -> None:
    """Replace the iterator inside ``result``, which its method ``decode`` makes, by a metered one.

    It is made on a copy, as a generator that referred to ``result`` would keep it, and its connection, from going.
    """
    unread = copy.copy(result)
    unread.__dict__.pop("_iterator", None)
    notice_close(response, meter)
    items = getattr(unread, decode)()
    if hasattr(type(result), "__anext__"):
        result._iterator = MeteredAsyncIterator(items, meter, response.aclose)
    else:
        result._iterator = MeteredIterator(items, meter, response.close)
