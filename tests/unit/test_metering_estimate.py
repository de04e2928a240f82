"""Input tokens from the size of a request: text by its bytes, media by rough figures, one cheap walk."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actguard.integrations.estimate import IMAGE_TOKENS, input_tokens

PICTURE = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 2_000).decode()
SOUND = base64.b64encode(bytes(range(256)) * 2_000).decode()


def test_four_bytes_of_text_are_a_token() -> None:
    assert input_tokens("x" * 400) == 100
    assert input_tokens("é" * 400) == 200
    assert input_tokens(["word " * 400]) == 500


def test_names_of_fields_count_too() -> None:
    assert input_tokens({"description": "x"}) == 3


def test_nothing_is_nothing() -> None:
    assert [input_tokens(nothing) for nothing in (None, {}, [], 1.5, [1.5, None])] == [0] * 5


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "input_image", "image_url": PICTURE},
    ],
)
def test_a_picture_is_not_text(part: Any) -> None:
    assert IMAGE_TOKENS <= input_tokens(part) <= IMAGE_TOKENS + 20


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": SOUND, "format": "mp3"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + SOUND}},
        {"inline": bytes(1_000_000)},
    ],
)
def test_sound_and_documents_are_not_text(part: Any) -> None:
    assert 0 < input_tokens(part) < 30_000


def test_a_long_text_is_not_taken_for_media() -> None:
    assert input_tokens("All work and no play makes Jack a dull boy. " * 1_000) == 11_000


def test_token_ids_are_tokens() -> None:
    assert input_tokens([[1, 2, 3], [4, 5]]) == 5


def test_lone_surrogates_are_counted() -> None:
    assert input_tokens("\ud83d" * 4) > 0


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_more_of_the_same_is_never_less(body: Any) -> None:
    assert 0 <= input_tokens([body]) <= input_tokens([body, body])
