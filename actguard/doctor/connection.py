"""The way to the gateway, step by step: its name, a connection, TLS. Nothing is asked of it yet."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from actguard import clock
from actguard.doctor.deadline import Deadline
from actguard.doctor.findings import Finding, counted, ok, problem, warning
from actguard.gateway.reach import Resolver, certificate_problem
from actguard.settings import Settings

STEP_S = 5.0
"""The longest that one step may take."""
EXPIRES_SOON_DAYS = 14
DAY_S = 86_400

_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})
"""OpenSSL's numbers for a certificate that nobody known here vouches for."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway is, as its settings say."""

    host: str
    port: int
    secure: bool
    url_source: str

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"


class Broken(Exception):
    """A step that failed: the ones after it are pointless."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def address_of(settings: Settings, url_source: str) -> Address:
    """Host and port of the gateway."""
    assert settings.gateway_url is not None
    parts = urlsplit(settings.gateway_url)
    secure = parts.scheme == "https"
    return Address(parts.hostname or "", parts.port or (443 if secure else 80), secure, url_source)


async def reach(address: Address, deadline: Deadline, found: Callable[[Finding], None]) -> None:
    """Go the way once, telling ``found`` about each step.

    Raises:
        Broken: the gateway cannot be reached.
    """
    try:
        numbers = await _look_up(address, deadline, found)
        number = await _connect(address, numbers, deadline, found)
    except Broken as broken:
        raise Broken(_with_proxy_in_mind(broken.finding, address)) from None
    if address.secure:
        found(await _shake_hands(address, number, deadline))
    else:
        found(_in_clear_text(address))


async def _look_up(address: Address, deadline: Deadline, found: Callable[[Finding], None]) -> list[str]:
    if _is_number(address.host):
        return [address.host]
    resolver = Resolver()
    limit = deadline.left(STEP_S)
    try:
        async with asyncio.timeout(limit):
            results = await resolver.resolve(address.host, address.port, socket.AF_UNSPEC)
    except TimeoutError:
        why = f"no name server answered within {limit:.0f} s"
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
    else:
        numbers = list(dict.fromkeys(result["host"] for result in results))
        found(ok("name", f"{address.host} is {', '.join(numbers)}"))
        return numbers
    finally:
        await resolver.close()
    raise Broken(
        problem(
            "name",
            f"{address.host} cannot be looked up: {why}",
            f"Check the spelling in gateway_url (from {address.url_source}), and the name servers of this machine.",
        )
    )


async def _connect(address: Address, numbers: list[str], deadline: Deadline, found: Callable[[Finding], None]) -> str:
    failed: list[tuple[str, Exception]] = []
    limit = deadline.left(STEP_S)
    for number in numbers:
        began = clock.monotonic()
        try:
            async with asyncio.timeout(limit / len(numbers)):
                _, writer = await asyncio.open_connection(number, address.port)
        except OSError as error:  # a TimeoutError is one
            failed.append((number, error))
            continue
        writer.transport.abort()
        if failed:
            others = ", ".join(number for number, _ in failed)
            found(
                warning(
                    "connection",
                    f"{number} port {address.port} accepts it, but {others} does not",
                    "Every connection may try the dead address first: remove it from the name, or mend it.",
                )
            )
        else:
            took = (clock.monotonic() - began) * 1000
            found(ok("connection", f"{number} port {address.port} accepts it in {took:.0f} ms"))
        return number
    raise Broken(_no_connection(address, failed[0][1], limit))


def _no_connection(address: Address, error: Exception, limit: float) -> Finding:
    if isinstance(error, ConnectionRefusedError):
        return problem(
            "connection",
            f"nothing listens at {address.place} (connection refused)",
            f"Start the gateway, or correct gateway_url (from {address.url_source}).",
        )
    if isinstance(error, TimeoutError):
        return problem(
            "connection",
            f"{address.place} did not accept a connection within {limit:.0f} s",
            "Look for a firewall on the way, and check that the gateway runs.",
        )
    why = (getattr(error, "strerror", None) or type(error).__name__).lower()
    return problem(
        "connection",
        f"{address.place} cannot be reached: {why}",
        f"Check the network of this machine, and gateway_url (from {address.url_source}).",
    )


def _with_proxy_in_mind(finding: Finding, address: Address) -> Finding:
    """Where a network lets nothing out but by its proxy, that is why: the gateway is asked directly."""
    variable = "https_proxy" if address.secure else "http_proxy"
    if variable.removesuffix("_proxy") not in getproxies_environment():
        return finding
    advice = f"{finding.fix} {variable.upper()} is set here, but gateways are asked directly, without a proxy."
    return replace(finding, fix=advice)


async def _shake_hands(address: Address, number: str, deadline: Deadline) -> Finding:
    limit = deadline.left(STEP_S)
    try:
        context = ssl.create_default_context()
    except OSError:
        raise Broken(
            problem(
                "TLS",
                "the certificates of authorities cannot be read",
                "Check the variables SSL_CERT_FILE and SSL_CERT_DIR: they must name a readable file and directory.",
            )
        ) from None
    try:
        async with asyncio.timeout(limit):
            _, writer = await asyncio.open_connection(number, address.port, ssl=context, server_hostname=address.host)
    except OSError as error:  # TimeoutError and ssl.SSLError are
        failure = error
    else:
        session = writer.get_extra_info("ssl_object")
        certificate, version = session.getpeercert(), session.version()
        writer.transport.abort()
        return _verdict(certificate, version)
    raise Broken(_no_tls(address, failure, limit))


def _no_tls(address: Address, error: OSError, limit: float) -> Finding:
    refused = certificate_problem(error, address.place)
    if refused is not None:
        what, advice = refused
        if getattr(error, "verify_code", None) in _UNKNOWN_AUTHORITY:
            advice += (
                f" To get what it shows: openssl s_client -connect {address.place} -showcerts </dev/null"
                " | openssl x509 > gateway.pem (compare it with its owner's before you trust it)."
            )
        return problem("TLS", what[:1].lower() + what[1:].rstrip("."), advice)
    if isinstance(error, TimeoutError):
        return problem(
            "TLS",
            f"{address.place} did not finish the TLS handshake within {limit:.0f} s",
            "Check that the gateway really speaks https there, and that it is not overloaded.",
        )
    return problem(
        "TLS",
        f"{address.place} does not speak TLS ({getattr(error, 'reason', None) or type(error).__name__})",
        f"If it speaks plain http on this machine, write http:// in gateway_url (from {address.url_source}); "
        "else check the port.",
    )


def _verdict(certificate: dict[str, Any], version: str | None) -> Finding:
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    left = (ends.timestamp() - clock.epoch()) / DAY_S
    until = f"{version}; the certificate is accepted, and valid until {ends:%Y-%m-%d}"
    if left < EXPIRES_SOON_DAYS:
        return warning(
            "TLS",
            f"{until} ({counted(int(left), 'day')} left)",
            "Renew it before then: runs go on without the gateway.",
        )
    return ok("TLS", f"{until} ({counted(int(left), 'day')} left)")


def _in_clear_text(address: Address) -> Finding:
    if _is_number(address.host) and ipaddress.ip_address(address.host).is_loopback:
        return ok("TLS", "none, and none is needed: the gateway is on this machine")
    if address.host == "localhost" or address.host.endswith(".localhost"):
        return ok("TLS", "none, and none is needed: the gateway is on this machine")
    return warning(
        "TLS",
        f"none: the key travels to {address.host} in clear text (allow_insecure_gateway)",
        "Give the gateway a certificate, write https:// in gateway_url, and remove allow_insecure_gateway.",
    )


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
