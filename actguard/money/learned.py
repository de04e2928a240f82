"""How many tokens each model used to answer so far: what the next call of it is expected to use."""

from __future__ import annotations

DEFAULT_OUTPUT_TOKENS = 512
"""Expected output of a model that has not answered yet, when the request sets no limit. A guess: a page of text."""

_FADING = 0.1
"""How much of the way from its peak to the newest answer an expectation goes down with each answer."""


class OutputHistory:
    """The recent peak of output tokens per provider and model: it jumps up with a long answer and fades slowly.

    A peak, not a mean: a hold that is too small lets concurrent calls overshoot together, one that is a little too
    large only makes them wait for each other. Written without a lock: a lost update moves an expectation by one call,
    which no exact figure depends on.
    """

    __slots__ = ("_peaks",)

    def __init__(self) -> None:
        self._peaks: dict[tuple[str, str], float] = {}

    def note(self, provider: str, model: str, output_tokens: int) -> None:
        """A call of ``model`` put out ``output_tokens``."""
        key = (provider, model)
        peak = self._peaks.get(key, 0.0)
        self._peaks[key] = max(output_tokens, peak + _FADING * (output_tokens - peak))

    def expected(self, provider: str, model: str, limit: int | None = None) -> int:
        """The output tokens to expect of the next call: the recent peak, at most the request's own ``limit``.

        A model that has not answered yet is expected to use the whole limit.
        """
        peak = self._peaks.get((provider, model))
        if peak is None:
            return DEFAULT_OUTPUT_TOKENS if limit is None else limit
        return int(peak) + 1 if limit is None else min(int(peak) + 1, limit)
