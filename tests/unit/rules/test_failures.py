"""Kinds of failure, read from what libraries put on their exceptions and answers."""

from __future__ import annotations

import asyncio
import errno
import http
import socket
import ssl
import urllib.error
from email.message import Message
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actguard.exceptions import BudgetExceededError, GuardError, ToolTimeoutError
from actguard.rules.failures import (
    FAIL_ON_DEFAULT,
    FAIL_ON_INFRA_ONLY,
    FAIL_ON_STRICT,
    IGNORE_ON_DEFAULT,
    FailureKind,
    classify,
)

try:
    import httpx2 as httpx
except ImportError:
    import httpx  # what the SDKs used before

K = FailureKind
REQUEST = httpx.Request("GET", "http://127.0.0.1/")


class Failure(Exception):
    """An exception of some library, with the attributes that it is given."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("failed")
        for name, value in attributes.items():
            setattr(self, name, value)


def aws(code: str, status: int = 400) -> Failure:
    return Failure(response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}})


def grpc(name: str) -> Failure:
    return Failure(code=lambda: SimpleNamespace(name=name))


def test_the_sets_are_those_of_the_contract() -> None:
    assert {K.TRANSPORT, K.TIMEOUT, K.OVERLOADED} == FAIL_ON_DEFAULT
    assert {*FAIL_ON_DEFAULT, K.AUTH, K.THROTTLED} == FAIL_ON_STRICT
    assert {K.TRANSPORT, K.TIMEOUT} == FAIL_ON_INFRA_ONLY
    assert {K.INVALID, K.NOT_FOUND, K.CONFLICT} == IGNORE_ON_DEFAULT
    assert not FAIL_ON_STRICT & IGNORE_ON_DEFAULT
    assert len(K) == 9


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ThrottlingException", K.THROTTLED),
        ("Throttling", K.THROTTLED),
        ("RequestThrottled", K.THROTTLED),
        ("TooManyRequestsException", K.THROTTLED),
        ("ProvisionedThroughputExceededException", K.THROTTLED),
        ("SlowDown", K.THROTTLED),
        ("AccessDenied", K.AUTH),
        ("AccessDeniedException", K.AUTH),
        ("UnauthorizedOperation", K.AUTH),
        ("InvalidToken", K.AUTH),
        ("ExpiredToken", K.AUTH),
        ("RequestTimeout", K.TIMEOUT),
        ("RequestTimeoutException", K.TIMEOUT),
    ],
)
def test_a_botocore_code_is_read_before_its_status(code: str, kind: FailureKind) -> None:
    assert classify(aws(code, status=500)) is kind


def test_an_unknown_botocore_code_falls_back_to_its_status() -> None:
    assert classify(aws("ValidationException", status=400)) is K.INVALID
    assert classify(aws("InternalFailure", status=500)) is K.OVERLOADED
    assert classify(aws("ResourceNotFoundException", status=404)) is K.NOT_FOUND


STATUSES = [
    (401, K.AUTH),
    (403, K.AUTH),
    (404, K.NOT_FOUND),
    (408, K.TIMEOUT),
    (409, K.CONFLICT),
    (429, K.THROTTLED),
    (400, K.INVALID),
    (422, K.INVALID),
    (500, K.OVERLOADED),
    (503, K.OVERLOADED),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_http_statuses_of_exceptions_and_results(status: int, kind: FailureKind) -> None:
    response = httpx.Response(status, request=REQUEST)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    assert classify(caught.value) is kind
    assert classify(response) is kind
    assert classify(SimpleNamespace(response=response)) is kind
    assert classify({"ResponseMetadata": {"HTTPStatusCode": status}}) is kind
    assert classify(Failure(status_code=http.HTTPStatus(status))) is kind
    assert classify(Failure(status=status)) is kind  # aiohttp
    assert classify(urllib.error.HTTPError("http://127.0.0.1/", status, "", Message(), None)) is kind


@pytest.mark.parametrize(
    "result",
    [
        None,
        "503",
        503,
        [503],
        {"status_code": 503},
        {"ResponseMetadata": {"HTTPStatusCode": 200}},
        {"ResponseMetadata": None},
        httpx.Response(204, request=REQUEST),
        SimpleNamespace(status_code="503"),
        SimpleNamespace(status_code=True),
        SimpleNamespace(status=503, code=503),  # may be the status of an order
        SimpleNamespace(status_code=503_000),
        object(),
    ],
)
def test_other_results_are_no_failure(result: object) -> None:
    assert classify(result) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("UNAVAILABLE", K.TRANSPORT),
        ("DEADLINE_EXCEEDED", K.TIMEOUT),
        ("RESOURCE_EXHAUSTED", K.OVERLOADED),
        ("UNAUTHENTICATED", K.AUTH),
        ("PERMISSION_DENIED", K.AUTH),
        ("INVALID_ARGUMENT", K.INVALID),
        ("NOT_FOUND", K.NOT_FOUND),
        ("ABORTED", K.CONFLICT),
        ("ALREADY_EXISTS", K.CONFLICT),
        ("DATA_LOSS", K.UNKNOWN),
    ],
)
def test_grpc_codes(name: str, kind: FailureKind) -> None:
    assert classify(grpc(name)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), K.TIMEOUT),
        (ConnectionError(), K.TRANSPORT),
        (ConnectionResetError(), K.TRANSPORT),
        (BrokenPipeError(), K.TRANSPORT),
        (socket.gaierror(socket.EAI_NONAME, "unknown host"), K.TRANSPORT),
        (ssl.SSLError(1, "bad record"), K.TRANSPORT),  # whose errno is EPERM by chance
        (OSError(errno.ETIMEDOUT, ""), K.TIMEOUT),
        (OSError(errno.EHOSTUNREACH, ""), K.TRANSPORT),
        (OSError(errno.ENETUNREACH, ""), K.TRANSPORT),
        (OSError(errno.EMFILE, ""), K.OVERLOADED),
        (PermissionError(errno.EACCES, ""), K.AUTH),
        (FileNotFoundError(errno.ENOENT, ""), K.NOT_FOUND),
        (OSError("no number"), K.UNKNOWN),
        (ValueError("wrong"), K.UNKNOWN),
        (Exception(), K.UNKNOWN),
    ],
)
def test_builtin_exceptions(error: Exception, kind: FailureKind) -> None:
    assert classify(error) is kind


@pytest.mark.parametrize("attribute", ["sqlstate", "pgcode"])
@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40P01", K.CONFLICT),
        ("40001", K.CONFLICT),
        ("42601", K.INVALID),
        ("42P01", K.INVALID),
        ("42703", K.INVALID),
        ("53300", K.OVERLOADED),
        ("08006", K.TRANSPORT),
        ("99999", K.UNKNOWN),
    ],
)
def test_sqlstates(attribute: str, state: str, kind: FailureKind) -> None:
    error = Failure(**{attribute: state})
    assert classify(error) is kind
    assert classify(Failure(orig=error)) is kind  # SQLAlchemy


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ReadTimeout("slow"), K.TIMEOUT),
        (httpx.ConnectError("refused"), K.TRANSPORT),
        (httpx.RemoteProtocolError("cut"), K.TRANSPORT),
        (aiohttp.ServerDisconnectedError(), K.TRANSPORT),
        (aiohttp.ServerTimeoutError(), K.TIMEOUT),
        (type("ReadTimeout", (OSError,), {"__module__": "requests.exceptions"})(), K.UNKNOWN),
        (type("Timeout", (OSError,), {"__module__": "requests.exceptions"})(), K.TIMEOUT),
    ],
)
def test_connection_errors_of_http_clients(error: Exception, kind: FailureKind) -> None:
    assert classify(error) is kind


def test_the_order_in_which_signs_are_read() -> None:
    both = aws("ThrottlingException", 500)
    both.status_code = 404  # type: ignore[attr-defined]
    assert classify(both) is K.THROTTLED
    status_and_grpc = grpc("UNAVAILABLE")
    status_and_grpc.status_code = 404  # type: ignore[attr-defined]
    assert classify(status_and_grpc) is K.NOT_FOUND
    grpc_and_builtin = type("Both", (ConnectionError,), {"code": lambda self: SimpleNamespace(name="ABORTED")})()
    assert classify(grpc_and_builtin) is K.CONFLICT
    builtin_and_sql = type("Both", (TimeoutError,), {"sqlstate": "40001"})()
    assert classify(builtin_and_sql) is K.TIMEOUT


def test_refusals_and_cancellation_are_no_outcome() -> None:
    assert classify(ToolTimeoutError(tool_name="search", timeout_s=1.0)) is K.TIMEOUT
    for refusal in (GuardError("NO", "no"), BudgetExceededError(usd_limit=1.0, status_code=409)):
        assert classify(refusal) is None
    for interrupt in (asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit(), SystemExit(1)):
        assert classify(interrupt) is None


def test_of_a_group_the_first_known_kind_decides() -> None:
    assert classify(ExceptionGroup("", [ValueError(), ExceptionGroup("", [TimeoutError()])])) is K.TIMEOUT
    assert classify(ExceptionGroup("", [ValueError()])) is K.UNKNOWN
    assert classify(BaseExceptionGroup("", [asyncio.CancelledError()])) is None
    assert classify(ExceptionGroup("", [GuardError("NO", "no")])) is None


class Hostile(Exception):
    """Raises whatever is read from it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Liar:
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no class")

    def __getattr__(self, name: str) -> Any:
        return self


class HalfHostile(TimeoutError):
    @property
    def response(self) -> Any:
        raise RuntimeError("not read yet")

    status_code = property(lambda self: 1 / 0)


def test_hostile_objects_are_classified_by_what_can_be_read() -> None:
    assert classify(Hostile()) is K.UNKNOWN
    assert classify(Liar()) is None
    assert classify(Failure(response=Liar(), status_code=Liar(), code=Liar(), sqlstate=Liar())) is K.UNKNOWN
    assert classify(HalfHostile()) is K.TIMEOUT
    assert classify(Failure(response={"Error": Liar()})) is K.UNKNOWN


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_anything_else_is_survived(value: Any) -> None:
    names = ("response", "status_code", "status", "code", "sqlstate", "errno", "orig")
    assert isinstance(classify(Failure(**dict.fromkeys(names, value))), FailureKind)
    assert classify(SimpleNamespace(**dict.fromkeys(names, value))) in {None, *FailureKind}
