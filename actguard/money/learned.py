"""How many tokens calls of each model used so far: what the next call of it is expected to use."""

from __future__ import annotations

from typing import NamedTuple

from actguard.money.output_limits import USUAL_OUTPUT
from actguard.money.usage import Usage

FADING = 0.01
"""How much of the way from its peak to the newest answer an expectation goes down when calls come one by one."""
TRUSTED = 10.0
"""How many answers, one by one, it takes until they are trusted more than the request's own limit."""


class _Peak(NamedTuple):
    tokens: float = 0.0
    answers: float = 0.0
    """Each counted as the part that it is of the calls that were under way with it."""
    excess: float = 0.0
    """Input tokens that were billed beyond what the request showed: templates, tools, an estimate that was low."""
    excess_ratio: float = 0.0
    """The same, as a part of what the request showed."""


_UNKNOWN = _Peak()


class UsageHistory:
    """The recent peak of output tokens per provider and model: it jumps up with a long answer and fades slowly.

    A peak, not a mean: a hold that is too small lets concurrent calls overshoot together, one that is a little too
    large only makes them wait for each other. Of calls that are under way at once the short ones answer first, so an
    answer among a hundred others under way says a hundredth of what one by itself says: it counts and fades as much.
    Written without a lock: a lost update moves an expectation by one call, which no exact figure depends on.
    """

    __slots__ = ("_peaks",)

    def __init__(self) -> None:
        self._peaks: dict[tuple[str, str], _Peak] = {}

    def note(
        self, provider: str, model: str, usage: Usage, *, shown_input: int | None = None, under_way: int = 0
    ) -> None:
        """A call of ``model`` used so much, while so many others were under way. ``shown_input`` are the input tokens
        that its request was estimated to have; None: as many as it had."""
        key, part = (provider, model), 1.0 / (1 + under_way)
        peak, fading = self._peaks.get(key, _UNKNOWN), FADING * part
        shown = usage.input_tokens if shown_input is None else shown_input
        excess = max(usage.input_tokens - shown, 0)
        self._peaks[key] = _Peak(
            _up_or_fading(peak.tokens, usage.output_tokens, fading),
            peak.answers + part,
            _up_or_fading(peak.excess, excess, fading),
            _up_or_fading(peak.excess_ratio, excess / max(shown, 1), fading),
        )

    def knows(self, provider: str, model: str) -> bool:
        """True once ``model`` has answered often enough for what is expected of it to be more than a guess."""
        peak = self._peaks.get((provider, model))
        return peak is not None and peak.answers >= TRUSTED

    def expected(self, provider: str, model: str, limit: int | None = None) -> int:
        """The output tokens to expect of the next call: the recent peak, at most the request's own ``limit``.

        A model that has hardly answered yet is expected to use the whole limit, or, without one, as much as long
        answers do: a guess that holds others up, but refuses none (see `actguard.guards.admission`).
        """
        peak = self._peaks.get((provider, model), _UNKNOWN)
        expected = int(peak.tokens) + 1
        if peak.answers < TRUSTED:
            expected = max(expected, USUAL_OUTPUT if limit is None else limit)
        return expected if limit is None else min(expected, limit)

    def unseen_input(self, provider: str, model: str, shown: int) -> int:
        """The input tokens to expect beyond the ``shown`` ones that the request seems to have."""
        peak = self._peaks.get((provider, model), _UNKNOWN)
        return int(min(peak.excess, peak.excess_ratio * max(shown, 1)))


def _up_or_fading(peak: float, new: float, fading: float) -> float:
    return max(new, peak + fading * (new - peak))
