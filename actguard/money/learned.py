"""How many tokens each model used to answer so far: what the next call of it is expected to use."""

from __future__ import annotations

from typing import NamedTuple

from actguard.money.output_limits import USUAL_OUTPUT

FADING = 0.01
"""How much of the way from its peak to the newest answer an expectation goes down when calls come one by one."""
TRUSTED = 10.0
"""How many answers, one by one, it takes until they are trusted more than the request's own limit."""


class _Peak(NamedTuple):
    tokens: float = 0.0
    answers: float = 0.0
    """Each counted as the part that it is of the calls that were under way with it."""


class OutputHistory:
    """The recent peak of output tokens per provider and model: it jumps up with a long answer and fades slowly.

    A peak, not a mean: a hold that is too small lets concurrent calls overshoot together, one that is a little too
    large only makes them wait for each other. Of calls that are under way at once the short ones answer first, so an
    answer among a hundred others under way says a hundredth of what one by itself says: it counts and fades as much.
    Written without a lock: a lost update moves an expectation by one call, which no exact figure depends on.
    """

    __slots__ = ("_peaks",)

    def __init__(self) -> None:
        self._peaks: dict[tuple[str, str], _Peak] = {}

    def note(self, provider: str, model: str, output_tokens: int, under_way: int = 0) -> None:
        """A call of ``model`` put out ``output_tokens``, while so many others were under way."""
        key, part = (provider, model), 1.0 / (1 + under_way)
        tokens, answers = self._peaks.get(key, _Peak())
        faded = tokens + FADING * part * (output_tokens - tokens)
        self._peaks[key] = _Peak(max(output_tokens, faded), answers + part)

    def knows(self, provider: str, model: str) -> bool:
        """True once ``model`` has answered often enough for what is expected of it to be more than a guess."""
        peak = self._peaks.get((provider, model))
        return peak is not None and peak.answers >= TRUSTED

    def expected(self, provider: str, model: str, limit: int | None = None) -> int:
        """The output tokens to expect of the next call: the recent peak, at most the request's own ``limit``.

        A model that has hardly answered yet is expected to use the whole limit, or, without one, as much as long
        answers do: a guess that holds others up, but refuses none (see `actguard.guards.admission`).
        """
        tokens, answers = self._peaks.get((provider, model), _Peak())
        expected = int(tokens) + 1
        if answers < TRUSTED:
            expected = max(expected, USUAL_OUTPUT if limit is None else limit)
        return expected if limit is None else min(expected, limit)
