"""Settings: every wrong value is refused at construction and named, and the key is never shown."""

from __future__ import annotations

import base64
import json
import logging
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actguard.client import CONFIG_VARIABLE, Client
from actguard.exceptions import ActGuardUsageError
from actguard.money.own_prices import Price

KEY = "sk-very-secret-0123456789"
HUGE = 10**400

NOT_SECONDS = [True, "3", b"3", 0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, HUGE, [], {}]
NOT_A_COUNT = [True, "3", 0, -1, 1.0, 1.5, math.nan, math.inf, HUGE, [], {}]
NOT_RETRIES = [True, "3", -1, 1.0, math.nan, math.inf, HUGE, []]
NOT_A_FLAG = [0, 1, "yes", "true", 1.0, []]

WRONG: dict[str, list[Any]] = {
    "api_key": [1, True, b"key", [], {}, "two words", "line\nbreak", "schlüssel", " ", "tab\there"],
    "gateway_url": [
        1,
        b"https://gateway.example",
        "gateway.example",
        "ftp://gateway.example",
        "https://",
        "https:///path",
        "https://gateway.example:99999",
        "https://user:password@gateway.example",
        "https://@gateway.example",
        "https://gateway.example?tenant=1",
        "https://gateway.example?",
        "https://gateway.example#part",
        "https://gateway.example#",
        " https://gateway.example",
        "https://gateway.example ",
        "https://gateway\n.example",
        "https://gate way.example",
        "   ",
    ],
    "allow_insecure_gateway": NOT_A_FLAG,
    "debug": NOT_A_FLAG,
    "event_mode": ["loud", "", "VERBOSE", 1, True, []],
    "flush_interval_ms": NOT_A_COUNT,
    "max_batch_events": NOT_A_COUNT,
    "max_batch_bytes": NOT_A_COUNT,
    "max_queue_events": NOT_A_COUNT,
    "timeout_s": NOT_SECONDS,
    "max_retries": NOT_RETRIES,
    "budget_timeout_s": NOT_SECONDS,
    "budget_max_retries": NOT_RETRIES,
    "event_timeout_s": NOT_SECONDS,
    "event_max_retries": NOT_RETRIES,
    "backoff_base_ms": NOT_RETRIES,
    "backoff_max_ms": NOT_RETRIES,
    "prices": [1, "gpt", [], {"gpt": 1}, {"gpt": {}}, {"gpt": {"input_per_mtok": math.nan}}, {1: Price}, {"": {}}],
    "on_gateway_failure": ["", "ajar", True, 1, []],
    "spool": ["", 1, True, b"spool.db", []],
    "spool_max_bytes": [*NOT_A_COUNT, 1000],
    "on_unpriced": ["ignore", "", 1, True, []],
}


def cases() -> list[Any]:
    return [
        pytest.param(field, value, id=f"{field}={value!r:.30}") for field, values in WRONG.items() for value in values
    ]


@pytest.mark.parametrize(("field", "value"), cases())
def test_a_wrong_value_is_refused_and_its_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        Client(**{field: value})
    assert caught.value.field is not None
    assert caught.value.field.split("[")[0] == field
    assert field in str(caught.value)


def test_every_parameter_of_the_constructor_is_tried() -> None:
    import inspect

    assert set(inspect.signature(Client).parameters) == set(WRONG)


def test_the_wrong_value_is_not_in_the_message() -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        Client(event_mode=KEY)  # type: ignore[arg-type]
    assert KEY not in everything_about(caught.value)


def test_an_unknown_setting_is_named_with_a_suggestion(tmp_path: Path) -> None:
    path = written(tmp_path, {"budget_timeout": 1.0})
    with pytest.raises(ActGuardUsageError, match="budget_timeout is not a setting; did you mean budget_timeout_s") as e:
        Client.from_file(path)
    assert e.value.field == "budget_timeout"


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ActGuardUsageError, match=r"flush_interval_ms .*; max_batch_events .*"):
        Client(flush_interval_ms=0, max_batch_events=0)


# --- defaults and legacy aliases --------------------------------------------------------------------------------


def times_of(client: Client) -> tuple[float, int, float, int]:
    s = client._settings
    return s.budget_timeout_s, s.budget_max_retries, s.event_timeout_s, s.event_max_retries


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (3.0, 1, 5.0, 8)),
        ({"timeout_s": 7}, (7, 1, 7, 8)),
        ({"max_retries": 0}, (3.0, 0, 5.0, 0)),
        ({"timeout_s": 7, "budget_timeout_s": 1.5}, (1.5, 1, 7, 8)),
        ({"timeout_s": 7, "event_timeout_s": 1.5}, (7, 1, 1.5, 8)),
        ({"max_retries": 4, "budget_max_retries": 0, "event_max_retries": 2}, (3.0, 0, 5.0, 2)),
        ({"timeout_s": 7, "budget_timeout_s": None}, (7, 1, 7, 8)),
    ],
)
def test_legacy_aliases_fill_what_is_omitted(given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert times_of(Client(**given)) == expected


def test_a_wrong_legacy_alias_is_named_once_and_itself() -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        Client(timeout_s=-1)
    assert caught.value.field == "timeout_s"
    assert "budget_timeout_s" not in str(caught.value)


def test_defaults() -> None:
    settings = Client()._settings
    assert (settings.event_mode, settings.flush_interval_ms, settings.max_batch_events) == ("verbose", 1000, 100)
    assert (settings.max_batch_bytes, settings.max_queue_events) == (256_000, 10_000)
    assert (settings.backoff_base_ms, settings.backoff_max_ms) == (200, 10_000)
    assert not settings.has_gateway


# --- the gateway's address ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://gateway.example", "HTTP://gateway.example", "http://127.0.0.1.gateway.example", "http://10.0.0.1"]
)
def test_plain_http_to_another_machine_is_refused_unless_allowed(url: str) -> None:
    with pytest.raises(ActGuardUsageError, match="allow_insecure_gateway") as caught:
        Client(api_key=KEY, gateway_url=url)
    assert caught.value.field == "gateway_url"
    with Client(api_key=KEY, gateway_url=url, allow_insecure_gateway=True) as client:
        assert client._settings.has_gateway


@pytest.mark.parametrize(
    "url", ["http://localhost:8080", "http://127.0.0.1", "http://[::1]:9", "HTTPS://gateway.example/", "https://g/a/"]
)
def test_an_address_that_is_safe_is_taken_without_its_trailing_slash(url: str) -> None:
    with Client(api_key=KEY, gateway_url=url) as client:
        assert client._settings.gateway_url == url.rstrip("/")


@pytest.mark.parametrize("given", [{"api_key": KEY}, {"gateway_url": "https://g.example"}, {"api_key": ""}])
def test_without_key_or_address_everything_is_local(given: dict[str, Any]) -> None:
    client = Client(**given)
    assert not client._settings.has_gateway
    assert "local only" in repr(client)


# --- the key is never shown -----------------------------------------------------------------------------------------


def everything_about(error: BaseException) -> str:
    """Whatever anyone could print of an error."""
    texts, queue = [], [error]
    while queue:
        each = queue.pop()
        texts += [str(each), repr(each), repr(each.args), repr(vars(each)), *traceback.format_exception(each)]
        queue += [linked for linked in (each.__cause__, each.__context__) if linked is not None]
    return "\n".join(texts)


def test_the_key_is_in_no_repr_of_the_client() -> None:
    client = Client(api_key=KEY, gateway_url="https://gateway.example", event_mode="off")
    shown = [repr(client), str(client), repr(client._settings), str(client._settings), repr(vars(client))]
    shown += [str(client._settings.model_dump()), client._settings.model_dump_json(exclude={"prices", "on_unpriced"})]
    with client.run() as run:
        shown += [repr(run), repr(vars(run)), repr(client.budget_guard(usd_limit=1))]
    client.close()
    assert KEY not in "".join(shown)
    assert "https://gateway.example" in repr(client)


@pytest.mark.parametrize(
    "other", [{"timeout_s": -1}, {"gateway_url": "nonsense"}, {"event_mode": "loud"}, {"backoff_base_ms": 99_999}]
)
def test_the_key_is_in_no_error_of_the_constructor(other: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ActGuardUsageError) as caught:
        Client(api_key=KEY, **other)
    assert KEY not in everything_about(caught.value) + caplog.text


def test_a_key_that_no_header_can_carry_is_not_shown() -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        Client(api_key=KEY + "\n")
    assert KEY not in everything_about(caught.value)


# --- from_file and from_env -----------------------------------------------------------------------------------------


def written(directory: Path, values: Any) -> Path:
    path = directory / "actguard.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def encoded(values: Any) -> str:
    return base64.b64encode(json.dumps(values).encode()).decode()


def test_from_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"api_key": KEY, "timeout_s": 2, "prices": {"m": {"input_per_mtok": 1, "output_per_mtok": "2"}}}
    )
    for form in (path, str(path)):
        assert times_of(Client.from_file(form))[0] == 2


def test_from_file_expands_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, {"timeout_s": 2})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert times_of(Client.from_file("~/actguard.json"))[0] == 2


def test_from_file_reads_what_windows_editors_write(tmp_path: Path) -> None:
    path = tmp_path / "actguard.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"timeout_s": 2}).encode())
    assert times_of(Client.from_file(path))[0] == 2


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"not json", b"\xff\xfe", b"[" * 100_000, b'{"timeout_s": ', b'"text"']
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "actguard.json"
    path.write_bytes(content)
    with pytest.raises(ActGuardUsageError) as caught:
        Client.from_file(path)
    assert caught.value.field == "path"
    assert str(path) in str(caught.value)


def test_where_a_file_is_not_json_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "actguard.json"
    path.write_text('{\n  "timeout_s": 2,\n  "api_key": "sk-hidden" "debug"\n}')
    where = r"not JSON \(line 3, column 26: Expecting ',' delimiter\)"
    with pytest.raises(ActGuardUsageError, match=where) as caught:
        Client.from_file(path)
    monkeypatch.setenv("ACTGUARD_CONFIG", str(path))
    with pytest.raises(ActGuardUsageError, match=where) as from_env:
        Client.from_env()
    for error in (caught.value, from_env.value):
        assert "sk-hidden" not in str(error)
        assert (error.__cause__, error.__context__) == (None, None)
    assert str(path) not in str(from_env.value)


def test_a_problem_is_said_once() -> None:
    with pytest.raises(ActGuardUsageError) as caught:
        Client(on_unpriced="ignore")  # type: ignore[arg-type]
    assert str(caught.value) == "Client: on_unpriced must be 'warn', 'raise' or a function (provider, model) -> price"


def test_prices_are_named_by_texts() -> None:
    with pytest.raises(ActGuardUsageError, match="prices must have texts for keys"):
        Client(prices={5: {"input_per_mtok": 1}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "path", ["/nonexistent/actguard.json", "/", "", "a\0b", "~nobody-of-this-name/x", 1, None, b"x"]
)
def test_a_path_that_is_no_file_is_refused(path: Any) -> None:
    with pytest.raises(ActGuardUsageError, match=r"path|file") as caught:
        Client.from_file(path)
    assert caught.value.field == "path"


def test_a_wrong_field_in_a_file_is_named_with_its_source(tmp_path: Path) -> None:
    path = tmp_path / "actguard.json"
    path.write_text('{"timeout_s": NaN}')
    with pytest.raises(ActGuardUsageError, match=r"Client\.from_file: timeout_s") as caught:
        Client.from_file(path)
    assert caught.value.field == "timeout_s"


@pytest.mark.parametrize("value", [None, ""])
def test_from_env_unset_is_the_default(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(CONFIG_VARIABLE, value)
    assert times_of(Client.from_env()) == (3.0, 1, 5.0, 8)


def wrapped(text: str) -> str:
    """As the ``base64`` command prints it: in lines of 76 characters, the last one ended."""
    return "".join(text[at : at + 76] + "\n" for at in range(0, len(text), 76))


@pytest.mark.parametrize("form", [str, wrapped], ids=["one line", "wrapped"])
def test_from_env_takes_base64(form: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, form(encoded({"api_key": KEY * 5, "timeout_s": 2})))
    assert times_of(Client.from_env())[0] == 2


def test_from_env_takes_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(written(tmp_path, {"api_key": KEY, "timeout_s": 2})))
    assert times_of(Client.from_env())[0] == 2


@pytest.mark.parametrize(
    "value",
    [
        KEY,
        json.dumps({"api_key": KEY}),
        encoded([KEY]),
        encoded(KEY),
        base64.b64encode(b"{" + KEY.encode()).decode(),
        base64.b64encode(b"\xff" + KEY.encode()).decode(),
        "/nonexistent/" + KEY,
        "~nobody-of-this-name/" + KEY,
        "/" * 5000 + KEY,
        base64.b64encode(b"[" * 100_000).decode(),
    ],
    ids=lambda value: value[:24],
)
def test_from_env_refuses_anything_else_without_showing_it(
    value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, value)
    with caplog.at_level(logging.DEBUG), pytest.raises(ActGuardUsageError, match=r"base64 .* path") as caught:
        Client.from_env()
    assert caught.value.field == CONFIG_VARIABLE
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    shown = everything_about(caught.value) + caplog.text
    assert KEY not in shown
    assert value[:40] not in shown


def test_from_env_does_not_show_a_path_to_a_file_that_is_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / KEY
    path.write_text(KEY)
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    with pytest.raises(ActGuardUsageError, match=r"base64 .* path") as caught:
        Client.from_env()
    assert caught.value.field == CONFIG_VARIABLE
    assert KEY not in everything_about(caught.value)


def test_from_env_names_a_wrong_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, encoded({"api_key": KEY, "flush_ms": 1}))
    with pytest.raises(ActGuardUsageError, match="flush_ms is not a setting") as caught:
        Client.from_env()
    assert caught.value.field == "flush_ms"
    assert KEY not in everything_about(caught.value)
