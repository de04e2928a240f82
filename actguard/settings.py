"""The validated configuration of a `Client`: one model, checked at construction, with errors that name the field.

Times are in the unit that the name ends in: ``_s`` seconds, ``_ms`` milliseconds. A value never appears in an error
message, since a wrong value can be a key in the wrong place.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from actguard.exceptions import ActGuardUsageError

EventMode = Literal["off", "significant", "verbose"]
OnGatewayFailure = Literal["open", "closed"]
UnpricedFunction = Callable[[str, str], Any]
OnUnpriced = Literal["warn", "raise"] | UnpricedFunction

MOST = 2**31 - 1
"""Larger numbers are a slip of the hand (68 years, two billion events), and too much for some clocks and locks."""

Seconds = Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Retries = Annotated[int, Field(ge=0, le=MOST)]
Milliseconds = Annotated[int, Field(ge=0, le=MOST)]

SMALLEST_SPOOL = 64 * 1024
LARGEST_MARGIN_S = 0.1

BUDGET_TIMEOUT_S = 3.0
BUDGET_MAX_RETRIES = 1
EVENT_TIMEOUT_S = 5.0
EVENT_MAX_RETRIES = 8

_LEGACY = ("timeout_s", "max_retries")
_SIDES = ("budget", "event")


class Settings(BaseModel):
    """What a `Client` was told. See `Client` for the meaning of each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    api_key: SecretStr | None = None
    gateway_url: str | None = None
    allow_insecure_gateway: bool = False
    debug: bool = False
    event_mode: EventMode = "verbose"
    flush_interval_ms: Count = 1000
    max_batch_events: Count = 100
    max_batch_bytes: Count = 256_000
    max_queue_events: Count = 10_000
    timeout_s: Seconds | None = None
    max_retries: Retries | None = None
    budget_timeout_s: Seconds = BUDGET_TIMEOUT_S
    budget_max_retries: Retries = BUDGET_MAX_RETRIES
    event_timeout_s: Seconds = EVENT_TIMEOUT_S
    event_max_retries: Retries = EVENT_MAX_RETRIES
    backoff_base_ms: Milliseconds = 200
    backoff_max_ms: Milliseconds = 10_000
    on_gateway_failure: OnGatewayFailure = "open"
    spool: Annotated[str, Field(min_length=1)] | None = None
    spool_max_bytes: Annotated[int, Field(ge=SMALLEST_SPOOL, le=2**40)] = 256 * 2**20
    prices: Mapping[str, Any] = Field(default_factory=dict)
    on_unpriced: OnUnpriced = "warn"

    @model_validator(mode="before")
    @classmethod
    def _legacy_aliases(cls, data: dict[str, Any]) -> dict[str, Any]:
        """``timeout_s`` and ``max_retries`` fill both pairs where the specific one is omitted."""
        data = {name: value for name, value in data.items() if value is not None}
        for legacy in _LEGACY:
            if legacy in data:
                for side in _SIDES:
                    data.setdefault(f"{side}_{legacy}", data[legacy])
        return data

    @field_validator("api_key")
    @classmethod
    def _key_fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        value = key.get_secret_value() if key else ""
        if not all(33 <= ord(char) <= 126 for char in value):
            raise ValueError("must be printable ASCII without spaces or line breaks")
        return key if value else None

    @field_validator("spool", mode="before")
    @classmethod
    def _path_as_text(cls, path: Any) -> Any:
        return os.fspath(path) if isinstance(path, os.PathLike) else path

    @field_validator("gateway_url")
    @classmethod
    def _base_url(cls, url: str | None) -> str | None:
        if not url:
            return None
        if not all(33 <= ord(char) <= 126 for char in url):
            # urlsplit() would drop line breaks and leading spaces, and judge another address than the one that is used.
            raise ValueError("must be printable ASCII without spaces or line breaks")
        try:
            parts = urlsplit(url)
            host, _port = parts.hostname, parts.port
        except ValueError:
            parts, host = urlsplit(""), None
        if parts.scheme not in {"http", "https"} or not host:
            raise ValueError("must be an http:// or https:// address with a host")
        if any(mark in url for mark in "@?#"):
            raise ValueError("must be a plain base address, without credentials, query or fragment")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if self.gateway_url and not self.allow_insecure_gateway:
            address = urlsplit(self.gateway_url)  # its scheme in lower case, however it was written
            if address.scheme != "https" and not _is_loopback(address.hostname or ""):
                raise ValueError(
                    "gateway_url: plain http would send the key in clear text; use https, or set "
                    "allow_insecure_gateway=True"
                )
        if self.backoff_max_ms < self.backoff_base_ms:
            raise ValueError("backoff_max_ms: must not be smaller than backoff_base_ms")
        return self

    @property
    def has_gateway(self) -> bool:
        """True when there is both an address and a key: only then is anything sent."""
        return self.gateway_url is not None and self.api_key is not None

    @property
    def answer_within_s(self) -> float:
        """When a reserve or settle is answered at the latest: a little before the asker's own patience ends."""
        return self.budget_timeout_s - min(LARGEST_MARGIN_S, self.budget_timeout_s / 10)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def validate(values: Mapping[str, Any], *, source: str = "Client") -> Settings:
    """Settings from ``values``; None means "omitted".

    Raises:
        ActGuardUsageError: a field is unknown, of a wrong type or out of range; ``.field`` names the first one.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as exc:
        # A field of several kinds has an error for each of them.
        problems = list(dict.fromkeys(map(_problem, exc.errors(include_input=False, include_url=False))))
    # Raised outside the except block: the pydantic error knows the values and must not hang on as __context__.
    aliases = {(f"{side}_{legacy}", text) for legacy, text in problems if legacy in _LEGACY for side in _SIDES}
    sentence = "; ".join(f"{field} {text}" for field, text in problems if (field, text) not in aliases)
    raise ActGuardUsageError(f"{source}: {sentence}", field=problems[0][0])


def _problem(error: Mapping[str, Any]) -> tuple[str, str]:
    """The field and what is wrong with it, without the value."""
    field = str(error["loc"][0]) if error["loc"] else ""
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "extra_forbidden":
        return field, "is not a setting" + _did_you_mean(field)
    if not field and ": " in text:
        field, text = text.split(": ", 1)
    if error["loc"][-1:] == ("[key]",):
        text = "must have texts for keys"
    if field == "on_unpriced":
        text = "must be 'warn', 'raise' or a function (provider, model) -> price"
    return field, text[:1].lower() + text[1:]


def _did_you_mean(field: str) -> str:
    import difflib

    close = difflib.get_close_matches(field, Settings.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def read_file(path: str | Path) -> dict[str, Any]:
    """The JSON object in the file at ``path``.

    Raises:
        ActGuardUsageError: the file cannot be read or is not a JSON object.
    """
    if not isinstance(path, str | Path):
        raise ActGuardUsageError(
            f"Client.from_file: path must be a str or Path, not {type(path).__name__}", field="path"
        )
    content, problem = _content(path)
    settings = None
    if content is not None:
        settings, problem = _json_object(content)
    if settings is not None:
        return settings
    raise ActGuardUsageError(f"Client.from_file: the file {str(path)!r} cannot be used: {problem}", field="path")


def _content(path: str | Path) -> tuple[str | None, str]:
    """The text in the file, or None and why there is none."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig"), ""
    except OSError as exc:
        return None, exc.strerror or type(exc).__name__
    except UnicodeDecodeError:
        return None, "it is not UTF-8 text"
    except (ValueError, RuntimeError):  # a NUL in it; a home directory that nobody has
        return None, "this is not a path"


def read_env_value(value: str) -> dict[str, Any]:
    """The settings behind the value of ``ACTGUARD_CONFIG``: base64 of a JSON object, or a path to such a file.

    Raises:
        ActGuardUsageError: it is neither. The value itself is never shown: it can hold the key.
    """
    content, _ = _content(value)
    if content is None:
        problem = "it is neither"
        try:
            text = "".join(value.split())  # base64 commands break their output into lines
            settings, _ = _json_object(base64.b64decode(text, validate=True).decode("utf-8-sig"))
        except (binascii.Error, ValueError):
            settings = None
    else:
        settings, problem = _json_object(content)
        problem = f"the file cannot be used: {problem}"
    if settings is not None:
        return settings
    raise ActGuardUsageError(
        "ACTGUARD_CONFIG must be either base64 of a JSON object with the client's settings, or the path of a file "
        f"with such an object; {problem} (the value is not shown, since it can hold a key)",
        field="ACTGUARD_CONFIG",
    )


def _json_object(text: str) -> tuple[dict[str, Any] | None, str]:
    """The JSON object that ``text`` is, or None and why it is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:  # its message shows one character of the text at the most
        return None, f"it is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
    except (ValueError, RecursionError):
        value = None
    return (value, "") if isinstance(value, dict) else (None, "it is not a JSON object of settings")
