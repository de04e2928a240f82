"""Reaching the gateway: name look-ups that cannot hold anything up, and what errors of the network mean."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from actguard.gateway.failures import GatewayFailure
from actguard.gateway.worker import Worker

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

_OWN_AUTHORITY = (
    "Put the certificate of your authority into a file and set SSL_CERT_FILE to its path, or use a certificate of a "
    "public authority."
)
_STRICT = (
    "Python 3.13 and later want certificates to the letter of RFC 5280: issue it, or that of its authority, anew with "
    "what is named here."
)
_CERTIFICATE_HELP = {
    9: "It is not valid yet: check the clock of this machine.",
    10: "It has expired: renew it, and check the clock of this machine.",
    18: f"It is self-signed. {_OWN_AUTHORITY}",
    19: f"Its authority is not known here. {_OWN_AUTHORITY}",
    20: f"Its authority is not known here. {_OWN_AUTHORITY}",
    21: f"Its authority is not known here. {_OWN_AUTHORITY}",
    62: "It is made out to another host: use the host name of the certificate in gateway_url.",
    64: "It is made out to another host: use the host name of the certificate in gateway_url.",
    **dict.fromkeys(range(79, 95), _STRICT),
}
"""What to do, by OpenSSL's number for what is wrong."""


class Resolver:
    """Looks up names in a thread that nothing waits for at the end of the program. aiohttp's own resolver uses
    asyncio's thread pool, which the interpreter joins at exit, and a look-up can hang for half a minute.
    """

    def __init__(self) -> None:
        self.worker = Worker("actguard-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of ``host``. Raises: OSError."""
        if self.worker.ended:
            raise OSError("the client is closed")
        found = await self.worker.run(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, family=family)
        return [
            {
                "hostname": host,
                "host": str(address[0]),
                "port": port,
                "family": each,
                "proto": proto,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for each, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """End the thread."""
        self.worker.end()


def failure_of(error: Exception, path: str, base: str, *, status: int | None) -> GatewayFailure:
    """What an exception of the network means. ``status`` is the 2xx of an answer whose text was lost on the way."""
    import aiohttp

    host = urlsplit(base).netloc
    certificate = certificate_problem(error, host)
    if certificate is not None:
        return GatewayFailure("certificate", " ".join(certificate), path=path, retryable=False)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        kind, summary = "tls", f"No TLS connection with {host}: is it really https that the gateway speaks there?"
    elif isinstance(error, TimeoutError):
        kind, summary = "timeout", "The gateway did not answer in time."
    elif isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        kind, summary = "dns", f"The name of {host} cannot be looked up: check gateway_url and the network."
    elif isinstance(error, aiohttp.ClientPayloadError):
        kind, summary = "truncated", "The gateway's answer broke off."
    elif isinstance(error, aiohttp.ClientResponseError):
        kind, summary = "not_http", f"What {host} sent is not HTTP."
    elif isinstance(error, ConnectionRefusedError) or getattr(error, "errno", None) == errno.ECONNREFUSED:
        kind, summary = "refused", f"Nothing listens at {host}: is the gateway running, and gateway_url right?"
    elif isinstance(error, aiohttp.ClientConnectorError):
        kind, summary = "unreachable", f"{host} cannot be reached: check gateway_url and the network."
    elif isinstance(error, OSError | aiohttp.ClientConnectionError):
        kind, summary = "reset", f"{host} closed the connection without an answer."
    else:
        return GatewayFailure("request", "The request cannot be sent.", path=path, retryable=False)
    return GatewayFailure(
        kind,
        summary,
        path=path,
        retryable=True,
        status=None if kind == "timeout" else status,
        accepted=status is not None,
    )


def certificate_problem(error: Exception, host: str) -> tuple[str, str] | None:
    """What is wrong with the certificate, and what to do about it; None when ``error`` is about something else."""
    inner = getattr(error, "certificate_error", error)
    if not isinstance(inner, ssl.SSLCertVerificationError):
        return None
    code = getattr(inner, "verify_code", 0)
    what = getattr(inner, "verify_message", "") or "it cannot be verified"
    return f"The certificate of {host} is not accepted ({what}).", _CERTIFICATE_HELP.get(code, _OWN_AUTHORITY)
