from __future__ import annotations

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
