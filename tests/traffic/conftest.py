from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest
from google import genai
from traffic.harness import TRAFFIC, Traffic, traffic

OLD = (openai.__version__ < "2", anthropic.__version__ < "1", genai.__version__ < "1")


@pytest.fixture(scope="session")
def recorded() -> Iterator[Traffic]:
    """The recorded provider traffic, served on loopback."""
    if not TRAFFIC.is_dir():
        pytest.skip(f"the recorded provider traffic is not here: {TRAFFIC}")
    if any(OLD):
        pytest.skip("the traffic was recorded with newer SDKs: these cannot send all of its requests")
    with traffic() as it:
        yield it
