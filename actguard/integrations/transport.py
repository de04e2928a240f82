"""Did a failed request leave this machine? What was never sent was never billed.

The SDKs use httpx, httpx2, aiohttp, requests and google-auth, each with exceptions of its own. They are told apart by
the names of their classes, as none of these libraries is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

_BEFORE_SENDING = frozenset(
    {
        # httpx, httpx2
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "ProxyError",
        "UnsupportedProtocol",
        "LocalProtocolError",
        "InvalidURL",
        # aiohttp
        "ClientConnectorError",
        "ConnectionTimeoutError",
        # requests and the urllib3 below it
        "NewConnectionError",
        "ConnectTimeoutError",
        "MissingSchema",
        "InvalidSchema",
        # credentials that cannot be had
        "GoogleAuthError",
        "BotoCoreError",
        "CredentialsError",
        # the standard library
        "gaierror",
        "ConnectionRefusedError",
    }
)
_IN_AN_ANSWER = (json.JSONDecodeError, UnicodeError)
_IN_THE_REQUEST = (TypeError, ValueError, LookupError, AttributeError, ImportError, NotImplementedError)


def was_sent(error: BaseException) -> bool:
    """False when a call that ended in ``error`` cannot have reached the provider; True when it has or may have."""
    if isinstance(error, _IN_THE_REQUEST) and not isinstance(error, _IN_AN_ANSWER):
        return False
    return not any(_BEFORE_SENDING & {kind.__name__ for kind in type(each).__mro__} for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it stands for; wrappers keep it as a cause, requests as an argument with a reason."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        each = pending.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, getattr(each, "reason", None), *each.args[:1]]
