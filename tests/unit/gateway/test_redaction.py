"""What a log may show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actguard.gateway.redaction import HIDDEN, LONGEST_LINE, Redactor

KEY = "ag_live_12345"


@pytest.mark.parametrize(
    "name", ["api_key", "apiKey", "Authorization", "password", "client_secret", "accessToken", "TopupUrl", "Set-Cookie"]
)
def test_fields_that_are_secret_by_name_are_hidden_wherever_they_are(name: str) -> None:
    line = Redactor(KEY).value({"a": [{name: "hush"}]})
    assert "hush" not in line
    assert name in line


def test_counts_of_tokens_are_figures() -> None:
    assert json.loads(Redactor(KEY).value({"input_tokens": 5, "total_tokens": 9})) == {
        "input_tokens": 5,
        "total_tokens": 9,
    }


def test_the_key_is_hidden_wherever_it_turns_up() -> None:
    body = json.dumps({"echo": f"you sent {KEY}", KEY: 1}).encode()
    assert KEY not in Redactor(KEY).json(body)


def test_a_line_has_an_end() -> None:
    assert len(Redactor(KEY).value({"x": "y" * 100_000})) == LONGEST_LINE + 1


@pytest.mark.parametrize("key", ["sk-12345", 'say"no\\more', "sk/12/34"])
def test_the_key_is_hidden_in_text_however_json_writes_it(key: str) -> None:
    redact = Redactor(key)
    for text in (f"bad key {key}!", json.dumps(key), json.dumps(key).replace("/", "\\/")):
        hidden = redact.text(text)
        assert HIDDEN in hidden
        assert key not in hidden
        assert json.dumps(key)[1:-1] not in hidden
    assert Redactor("k").text("make a new key") == "make a new key"


def test_what_is_nested_too_deep_is_not_shown_and_no_error() -> None:
    payload: list[Any] = []
    for _ in range(100_000):
        payload = [payload]
    assert "too deep" in Redactor(KEY).value(payload)
