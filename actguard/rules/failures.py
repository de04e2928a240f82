"""What kind of failure an exception or a result is, whichever library it comes from.

Nothing is imported for it: the kind is read from what libraries commonly put on their exceptions and answers, in this
order: botocore's error code, the HTTP status, the gRPC code, the builtin exception, the SQLSTATE, and last the names
that widely used HTTP clients give to their connection errors. Attributes that raise when they are read count as absent.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, cast

from actguard.exceptions import ActGuardError, ToolTimeoutError


class FailureKind(StrEnum):
    """Why a call failed, as far as a circuit breaker cares."""

    TRANSPORT = "transport"
    """The dependency could not be reached, or the connection broke."""
    TIMEOUT = "timeout"
    """It did not answer in time."""
    OVERLOADED = "overloaded"
    """It answered that it cannot serve now: HTTP 5xx, resources exhausted."""
    THROTTLED = "throttled"
    """It answered that this caller asks too often: HTTP 429."""
    AUTH = "auth"
    """The credentials are wrong or not sufficient."""
    INVALID = "invalid"
    """The request was wrong."""
    NOT_FOUND = "not_found"
    """What was asked for does not exist."""
    CONFLICT = "conflict"
    """It clashed with another change."""
    UNKNOWN = "unknown"
    """Nothing says which."""


FAIL_ON_DEFAULT = frozenset({FailureKind.TRANSPORT, FailureKind.TIMEOUT, FailureKind.OVERLOADED})
"""What a breaker counts unless told otherwise: the dependency is down, slow or overloaded."""
FAIL_ON_STRICT = FAIL_ON_DEFAULT | {FailureKind.AUTH, FailureKind.THROTTLED}
"""The default, and refusals that a rest can cure."""
FAIL_ON_INFRA_ONLY = frozenset({FailureKind.TRANSPORT, FailureKind.TIMEOUT})
"""Only what says that the dependency cannot be reached."""
IGNORE_ON_DEFAULT = frozenset({FailureKind.INVALID, FailureKind.NOT_FOUND, FailureKind.CONFLICT})
"""What says nothing about the health of the dependency."""

_PLAIN = frozenset({str, int, float, bool, bytes, list, tuple, set, type(None)})

_AWS_WORDS = (
    ("throttl", FailureKind.THROTTLED),
    ("toomanyrequests", FailureKind.THROTTLED),
    ("accessdenied", FailureKind.AUTH),
    ("unauthorized", FailureKind.AUTH),
    ("invalidtoken", FailureKind.AUTH),
    ("requesttimeout", FailureKind.TIMEOUT),
)
_AWS_CODES = {
    "requestlimitexceeded": FailureKind.THROTTLED,
    "provisionedthroughputexceededexception": FailureKind.THROTTLED,
    "bandwidthlimitexceeded": FailureKind.THROTTLED,
    "slowdown": FailureKind.THROTTLED,
    "expiredtoken": FailureKind.AUTH,
    "expiredtokenexception": FailureKind.AUTH,
    "invalidclienttokenid": FailureKind.AUTH,
    "unrecognizedclientexception": FailureKind.AUTH,
    "signaturedoesnotmatch": FailureKind.AUTH,
    "authfailure": FailureKind.AUTH,
}
_STATUS = {
    401: FailureKind.AUTH,
    403: FailureKind.AUTH,
    404: FailureKind.NOT_FOUND,
    408: FailureKind.TIMEOUT,
    409: FailureKind.CONFLICT,
    429: FailureKind.THROTTLED,
}
_GRPC = {
    "UNAVAILABLE": FailureKind.TRANSPORT,
    "DEADLINE_EXCEEDED": FailureKind.TIMEOUT,
    "RESOURCE_EXHAUSTED": FailureKind.OVERLOADED,
    "UNAUTHENTICATED": FailureKind.AUTH,
    "PERMISSION_DENIED": FailureKind.AUTH,
    "INVALID_ARGUMENT": FailureKind.INVALID,
    "NOT_FOUND": FailureKind.NOT_FOUND,
    "ABORTED": FailureKind.CONFLICT,
    "ALREADY_EXISTS": FailureKind.CONFLICT,
}
_ERRNO = {
    **dict.fromkeys(
        (
            errno.ECONNREFUSED,
            errno.ECONNRESET,
            errno.ECONNABORTED,
            errno.EPIPE,
            errno.ENOTCONN,
            errno.EHOSTUNREACH,
            errno.ENETUNREACH,
            errno.ENETDOWN,
            errno.ENETRESET,
            errno.EADDRNOTAVAIL,
        ),
        FailureKind.TRANSPORT,
    ),
    errno.ETIMEDOUT: FailureKind.TIMEOUT,
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM), FailureKind.OVERLOADED),
    errno.EACCES: FailureKind.AUTH,
    errno.EPERM: FailureKind.AUTH,
    errno.ENOENT: FailureKind.NOT_FOUND,
    errno.EEXIST: FailureKind.CONFLICT,
    errno.EINVAL: FailureKind.INVALID,
}
_SQLSTATE = {
    "40P01": FailureKind.CONFLICT,
    "40001": FailureKind.CONFLICT,
    "42601": FailureKind.INVALID,
    "42P01": FailureKind.INVALID,
    "42703": FailureKind.INVALID,
    "53300": FailureKind.OVERLOADED,
    "57014": FailureKind.TIMEOUT,
    "57P03": FailureKind.TRANSPORT,
}
_SQLSTATE_CLASS = {"08": FailureKind.TRANSPORT, "28": FailureKind.AUTH, "53": FailureKind.OVERLOADED}
_NAMES = {
    ("socket", "gaierror"): FailureKind.TRANSPORT,
    ("ssl", "SSLError"): FailureKind.TRANSPORT,
}
_CLIENT_NAMES = {
    **dict.fromkeys(
        (
            ("httpx", "TimeoutException"),
            ("httpcore", "TimeoutException"),
            ("requests", "Timeout"),
            ("urllib3", "TimeoutError"),
            ("openai", "APITimeoutError"),
            ("anthropic", "APITimeoutError"),
            ("botocore", "ConnectTimeoutError"),
            ("botocore", "ReadTimeoutError"),
        ),
        FailureKind.TIMEOUT,
    ),
    **dict.fromkeys(
        (
            ("httpx", "TransportError"),
            ("httpcore", "NetworkError"),
            ("httpcore", "ProtocolError"),
            ("requests", "ConnectionError"),
            ("urllib3", "NewConnectionError"),
            ("urllib3", "ProtocolError"),
            ("aiohttp", "ClientConnectionError"),
            ("openai", "APIConnectionError"),
            ("anthropic", "APIConnectionError"),
            ("botocore", "ConnectionError"),
        ),
        FailureKind.TRANSPORT,
    ),
}


def classify(outcome: object) -> FailureKind | None:
    """The kind of failure that an exception or a result is; None when it is none.

    None for a result without a failing status, for cancellation and other exceptions that are not an `Exception`, and
    for the refusals of ActGuard itself, which say nothing about the dependency. An exception that nothing is known of
    is UNKNOWN. Of an exception group, the first member of a known kind decides.

    Example: ``classify(ConnectionResetError())`` is ``FailureKind.TRANSPORT``; ``classify("sunny")`` is None.
    """
    kind = type(outcome)
    if kind in _PLAIN or (kind is dict and "ResponseMetadata" not in cast("dict[object, object]", outcome)):
        return None
    failed = issubclass(kind, BaseException)  # the type cannot lie, unlike __class__
    try:
        return _of_error(cast("BaseException", outcome)) if failed else _of_result(outcome)
    except Exception:  # noqa: BLE001  a hostile object must not replace the failure that is classified
        return FailureKind.UNKNOWN if issubclass(kind, Exception) else None


def _of_result(result: object) -> FailureKind | None:
    if type(result) is dict:
        metadata = result.get("ResponseMetadata")
        return None if metadata is None else _kind_of_status(_item(metadata, "HTTPStatusCode"))
    return _http(result, of_error=False)


def _of_error(error: BaseException) -> FailureKind | None:
    if isinstance(error, ToolTimeoutError):
        return FailureKind.TIMEOUT
    if isinstance(error, ActGuardError):
        return None
    if isinstance(error, BaseExceptionGroup):
        return _group(error)
    if not isinstance(error, Exception):
        return None
    return (
        _botocore(error)
        or _http(error, of_error=True)
        or _grpc(error)
        or _builtin(error)
        or _sqlstate(error)
        or _by_name(error, _CLIENT_NAMES)
        or FailureKind.UNKNOWN
    )


def _read(source: object, name: str) -> Any:
    """An attribute of a stranger, or None."""
    try:
        return getattr(source, name, None)
    except Exception:  # noqa: BLE001  a property that raises must not replace the failure that is classified
        return None


def _item(source: object, key: str) -> Any:
    try:
        return source.get(key) if isinstance(source, Mapping) else None
    except Exception:  # noqa: BLE001  as above, for a mapping
        return None


def _group(group: BaseExceptionGroup[BaseException]) -> FailureKind | None:
    kinds = [kind for kind in map(classify, group.exceptions) if kind is not None]
    return next((kind for kind in kinds if kind is not FailureKind.UNKNOWN), kinds[0] if kinds else None)


def _botocore(error: Exception) -> FailureKind | None:
    code = _item(_item(_read(error, "response"), "Error"), "Code")
    if not isinstance(code, str):
        return None
    code = code[:100].lower()
    exact = _AWS_CODES.get(code)
    return exact or next((kind for word, kind in _AWS_WORDS if word in code), None)


def _http(source: object, *, of_error: bool) -> FailureKind | None:
    metadata = _item(source, "ResponseMetadata")
    if metadata is not None:
        return _kind_of_status(_item(metadata, "HTTPStatusCode"))
    kind = _kind_of_status(_read(source, "status_code"))
    if kind is not None:
        return kind
    response = _read(source, "response")
    if response is not None:
        kind = _kind_of_status(_read(response, "status_code")) or _kind_of_status(
            _item(_item(response, "ResponseMetadata"), "HTTPStatusCode")
        )
    if kind is None and of_error:  # on a result these names can mean anything, on an exception they are aiohttp's
        kind = _kind_of_status(_read(source, "status")) or _kind_of_status(_read(source, "code"))
    return kind


def _kind_of_status(status: object) -> FailureKind | None:
    if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 599:
        return None
    return _STATUS.get(int(status)) or (FailureKind.OVERLOADED if status >= 500 else FailureKind.INVALID)


def _grpc(error: Exception) -> FailureKind | None:
    code = _read(error, "code")
    if not callable(code):
        return None
    try:
        name = code().name
    except Exception:  # noqa: BLE001  any method may be called "code"
        return None
    return _GRPC.get(name) if isinstance(name, str) else None


def _builtin(error: Exception) -> FailureKind | None:
    if isinstance(error, TimeoutError):
        return FailureKind.TIMEOUT
    if isinstance(error, ConnectionError):
        return FailureKind.TRANSPORT
    if isinstance(error, OSError):
        number = _read(error, "errno")  # not of these two: they have numbers of their own
        return _by_name(error, _NAMES) or (_ERRNO.get(number) if isinstance(number, int) else None)
    return None


def _sqlstate(error: Exception) -> FailureKind | None:
    original = _read(error, "orig")  # SQLAlchemy keeps the driver's exception there
    for source in (error, original):
        for name in ("sqlstate", "pgcode"):
            state = _read(source, name)
            if isinstance(state, str) and len(state) == 5:
                return _SQLSTATE.get(state) or _SQLSTATE_CLASS.get(state[:2])
    return None


def _by_name(error: Exception, names: Mapping[tuple[str, str], FailureKind]) -> FailureKind | None:
    for kind in type(error).__mro__:
        package = str(kind.__module__).partition(".")[0]
        found = names.get((package, kind.__name__)) or names.get((package.rstrip("2"), kind.__name__))
        if found is not None:
            return found
    return None
