"""What the tests of the gateway client share: a client with small timeouts, recorded warnings, certificates."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import actguard
from actguard.exceptions import ActGuardMonitoringWarning, MonitoringDegradedError
from actguard.scope import step
from actguard.testing.gateway import LoopbackGateway

PATIENT: dict[str, Any] = {
    "budget_timeout_s": 20.0,
    "event_timeout_s": 20.0,
    "event_max_retries": 2,
    "backoff_base_ms": 2,
    "backoff_max_ms": 10,
    "flush_interval_ms": 5,
}
"""Settings under which nothing times out, however busy the machine is, and retries come fast."""

HASTY: dict[str, Any] = {**PATIENT, "budget_timeout_s": 0.3, "event_timeout_s": 0.2, "event_max_retries": 1}
"""Settings for gateways that do not answer."""


def client_of(gateway: LoopbackGateway, **settings: Any) -> actguard.Client:
    """A client of ``gateway``."""
    return actguard.Client(**{"gateway_url": gateway.url, "api_key": gateway.api_key, **PATIENT, **settings})


@contextmanager
def recorded() -> Iterator[list[MonitoringDegradedError]]:
    """What is warned about inside, from all threads. Other warnings stay errors."""
    seen: list[MonitoringDegradedError] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield seen
    for each in caught:
        if not isinstance(each.message, ActGuardMonitoringWarning):
            raise each.message if isinstance(each.message, Warning) else AssertionError(each.message)
        seen.append(each.message.error)


class Caller:
    """Does the same in a coroutine and in a plain function."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def _on_loop(self, function: Callable[[], Awaitable[Any]]) -> Any:
        async def watched() -> Any:
            with anyio.fail_after(60):
                return await function()

        return anyio.run(watched, backend="trio" if self.mode == "trio" else "asyncio")

    def spend(self, client: actguard.Client, body: Callable[[], Any] = lambda: None, **limits: Any) -> Any:
        """One run with one root budget; the budget."""

        def work() -> None:
            actguard.add_cost("lookup", usd="0.001")
            body()

        if self.mode == "sync":
            with client.run(user_id="alice"), client.budget_guard(**limits) as budget:
                work()
            return budget

        async def main() -> Any:
            async with client.run(user_id="alice"), client.budget_guard(**limits) as budget:
                work()
            return budget

        return self._on_loop(main)

    def flush(self, client: actguard.Client, timeout: float = 20.0) -> bool:
        if self.mode == "sync":
            return client.flush(timeout)
        return bool(self._on_loop(lambda: client.aflush(timeout)))

    def ask(self, client: actguard.Client, request: Any) -> Any:
        timeout = client._settings.budget_timeout_s
        if self.mode == "sync":
            return step(client.bus.ask(request, timeout))
        return self._on_loop(lambda: client.bus.ask(request, timeout))


def certificate(folder: Path, *, host: str = "127.0.0.1", valid_days: int = 1) -> tuple[ssl.SSLContext, Path]:
    """A TLS server's context with a fresh self-signed certificate, and the file of that certificate.

    With negative ``valid_days`` it expired that many days ago.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(days=valid_days)
    alternative: x509.GeneralName
    try:
        alternative = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - datetime.timedelta(days=2))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public
