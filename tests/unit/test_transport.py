"""What was never sent was never billed: the errors of all HTTP libraries that the SDKs use."""

from __future__ import annotations

import asyncio
import json
import socket

import aiohttp
import httpx2
import pytest
import requests
from google.auth.exceptions import RefreshError
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from actguard.integrations.transport import was_sent


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


POOL = HTTPConnectionPool("127.0.0.1")
REFUSED = MaxRetryError(POOL, "/", NewConnectionError(POOL, "refused"))

NEVER_SENT = [
    httpx2.ConnectError("refused"),
    httpx2.ConnectTimeout("slow"),
    httpx2.PoolTimeout("busy"),
    httpx2.UnsupportedProtocol("ftp"),
    aiohttp.ClientConnectorDNSError(None, socket.gaierror(-2, "unknown")),  # type: ignore[arg-type]
    aiohttp.ConnectionTimeoutError("slow"),
    requests.ConnectionError(REFUSED),
    requests.exceptions.MissingSchema("no scheme"),
    RefreshError("no credentials"),  # type: ignore[no-untyped-call]
    ConnectionRefusedError(111, "refused"),
    caused(RuntimeError("Connection error."), httpx2.ConnectError("refused")),
    ValueError("unsupported value"),
    TypeError("not serializable"),
    KeyError("model"),
]
MAYBE_SENT = [
    httpx2.ReadTimeout("slow"),
    httpx2.WriteTimeout("slow"),
    httpx2.RemoteProtocolError("cut"),
    httpx2.ReadError("reset"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.SocketTimeoutError("slow"),
    requests.ReadTimeout("slow"),
    requests.ConnectionError(ProtocolError("aborted", ConnectionResetError(104, "reset"))),
    caused(RuntimeError("Connection error."), httpx2.ReadError("reset")),
    json.JSONDecodeError("not JSON", "", 0),
    TimeoutError(),
    ConnectionResetError(104, "reset"),
    asyncio.CancelledError(),
    KeyboardInterrupt(),
    RuntimeError("who knows"),
]


@pytest.mark.parametrize("error", NEVER_SENT, ids=repr)
def test_never_sent(error: BaseException) -> None:
    assert not was_sent(error)


@pytest.mark.parametrize("error", MAYBE_SENT, ids=repr)
def test_sent_or_maybe_sent(error: BaseException) -> None:
    assert was_sent(error)


def test_errors_that_cause_each_other_end() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert was_sent(first)
