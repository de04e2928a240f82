from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from traffic.harness import TRAFFIC, Traffic, traffic


@pytest.fixture(scope="session")
def recorded() -> Iterator[Traffic]:
    """The recorded provider traffic, served on loopback."""
    if not TRAFFIC.is_dir():
        pytest.skip(f"the recorded provider traffic is not here: {TRAFFIC}")
    with traffic() as it:
        yield it


@pytest.fixture
def one_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client of Google's SDK loads all root certificates three times, which takes longer than the replay."""
    context = ssl.create_default_context()
    monkeypatch.setattr(ssl, "create_default_context", lambda *_, **__: context)
