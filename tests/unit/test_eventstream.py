"""Amazon's binary event streams, read along however they are cut."""

from __future__ import annotations

import base64
import itertools
import json

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from actguard.integrations.eventstream import EventStreamReader
from actguard.testing._eventstream import encode_message


def message(event: dict[str, object]) -> bytes:
    encoded = base64.b64encode(json.dumps(event).encode()).decode()
    return encode_message({":event-type": "chunk"}, json.dumps({"bytes": encoded, "p": "abc"}).encode())


EVENTS: list[dict[str, object]] = [{"type": "message_start"}, {"type": "content_block_delta", "text": "é" * 50}]
STREAM = b"".join(message(event) for event in EVENTS)


def test_the_test_data_is_what_amazon_sends() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(STREAM)
    assert len(list(buffer)) == 2


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_chunks_may_end_anywhere(cuts: list[int]) -> None:
    reader = EventStreamReader()
    edges = [0, *sorted(cuts), len(STREAM)]
    found = [event for start, end in itertools.pairwise(edges) for event in reader.feed(STREAM[start:end])]
    assert [json.loads(event) for event in found] == EVENTS


def test_messages_without_an_event_tell_nothing() -> None:
    exception = encode_message({":message-type": "exception"}, b'{"message": "slow down"}')
    assert list(EventStreamReader().feed(exception + encode_message({}, b""))) == []


def test_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="not an event stream"):
        list(EventStreamReader().feed(b"\x00" * 12))
