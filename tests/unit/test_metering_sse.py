"""Server-sent events from bytes, wherever the chunks end."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from actguard.integrations.sse import EventReader


def read(*chunks: bytes) -> list[bytes]:
    reader = EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return events + list(reader.finish())


def test_events_end_with_an_empty_line() -> None:
    assert read(b"data: one\n\ndata: two\n\n") == [b"one", b"two"]


def test_other_fields_and_comments_are_passed_over() -> None:
    assert read(b": ping\nevent: message\nid: 1\ndata: one\nretry: 5\n\n\n\n") == [b"one"]


def test_data_may_have_several_lines() -> None:
    assert read(b"data: one\ndata:two\n\n") == [b"one\ntwo"]


def test_the_last_event_needs_no_empty_line() -> None:
    assert read(b"data: one\n\ndata: two") == [b"one", b"two"]


@given(
    events=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1).map(str.encode), max_size=5
    ),
    cuts=st.lists(st.integers(0, 200), max_size=10),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_chunks_may_end_anywhere(events: list[bytes], cuts: list[int], end: bytes) -> None:
    body = b"".join(b"data: " + event + end + end for event in events)
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    chunks = [body[start:stop] for start, stop in pairwise(places)]
    assert read(*chunks) == events
