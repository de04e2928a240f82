"""Logs of requests and answers without what must not be in a log."""

from __future__ import annotations

import json
from typing import Any

HIDDEN = "***"
_SECRET_WORDS = ("authorization", "apikey", "secret", "password", "token", "topupurl", "topupsessionid", "cookie")
LONGEST_LINE = 4000
SHORTEST_SECRET = 8
"""A shorter key is for trying things out."""


class Redactor:
    """Hides the key wherever it turns up, and the values of fields whose names say that they are secret.

    Example: ``Redactor("k").value({"api_key": "k2", "run_id": "r"})`` is ``'{"api_key": "***", "run_id": "r"}'``.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def text(self, text: str) -> str:
        """``text`` without the key, be that as it is or as JSON may write it."""
        if len(self._key) < SHORTEST_SECRET:
            return text  # "k" is no secret, and would be found in every word
        for key in (self._key, json.dumps(self._key)[1:-1], self._key.replace("/", "\\/")):
            text = text.replace(key, HIDDEN)
        return text

    def json(self, body: bytes) -> str:
        """A JSON body as one bounded line."""
        return self.value(json.loads(body))

    def value(self, payload: Any) -> str:
        """JSON values as one bounded line."""
        try:
            text = json.dumps(_without_secrets(payload), ensure_ascii=True).replace(self._key, HIDDEN)
        except RecursionError:  # what can be read can still be nested too deep for this
            return "(nested too deep to be shown)"
        return text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + "…"


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if _is_secret(name) else _without_secrets(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def _is_secret(name: str) -> bool:
    plain = name.replace("_", "").replace("-", "").lower()
    # Counts of tokens are figures: only a token by itself is a secret.
    return not plain.endswith("tokens") and any(plain.endswith(word) for word in _SECRET_WORDS)
