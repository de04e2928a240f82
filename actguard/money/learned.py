"""How many tokens each model used to answer so far: the expectation for calls whose request sets no limit."""

from __future__ import annotations

DEFAULT_OUTPUT_TOKENS = 512
"""Expected output of a model that has not answered yet. A guess: about a page of text."""

_WEIGHT = 0.2
"""Share of the newest call in the moving average: after ten calls a change of habit shows to nine tenths."""


class OutputHistory:
    """A moving average of output tokens per provider and model.

    Written without a lock: a lost update moves an expectation by one call, which no exact figure depends on.
    """

    __slots__ = ("_averages",)

    def __init__(self) -> None:
        self._averages: dict[tuple[str, str], float] = {}

    def note(self, provider: str, model: str, output_tokens: int) -> None:
        """A call of ``model`` put out ``output_tokens``."""
        key = (provider, model)
        before = self._averages.get(key)
        self._averages[key] = output_tokens if before is None else before + _WEIGHT * (output_tokens - before)

    def expected(self, provider: str, model: str, limit: int | None = None) -> int:
        """The output tokens to expect of the next call, at most the request's own ``limit``."""
        expected = int(self._averages.get((provider, model), DEFAULT_OUTPUT_TOKENS)) + 1
        return expected if limit is None else min(expected, limit)
