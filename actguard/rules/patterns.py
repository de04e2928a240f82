"""Patterns that cannot be used against the one who searches with them.

A backtracking engine, and Python's ``re`` is one, can take longer than anyone waits for some pairs of pattern and
text, and the text comes from a model. So a pattern is searched with RE2, which takes linear time, where that is
installed and agrees with ``re`` on what the pattern means. Otherwise it is examined once, when the rule is made:

    nested quantifiers       ``(a+)+``: two ways around a loop for the same text. Refused: time doubles per character.
    neighbouring quantifiers ``\\d+\\w+$``: a loop right after a loop that reads the same. Refused.
    everything else          the worst possible number of steps is estimated. Where it grows with a power of the length
                             (``ignore.*previous.*rules``), the length of texts is bounded so that the steps are; a
                             pattern for which fewer than a thousand characters would be left is refused.

A text over the bound is never searched: the rule refuses it instead.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from actguard.exceptions import ActGuardUsageError
from actguard.rules.automaton import ANYTHING, Automaton, UnsafePattern

LONGEST_TEXT = 10_000
"""Default of the longest text that is searched, in characters."""
LONGEST_PATTERN = 20_000

_MOST_STEPS = 2e7
"""What a search may cost at worst: some tenths of a second."""
_SHORTEST_BOUND = 1_000
_MOST_VISITS = 200_000
"""How much is looked at before a pattern counts as too complex."""

_ADVICE = (
    "Rewrite it (give gaps a bound such as .{0,80}, let neighbouring quantifiers read different characters, split it "
    "into several rules), or install actguard[re2], which searches in linear time."
)


@dataclass(frozen=True, slots=True)
class Matcher:
    """A compiled pattern and the longest text that it may be used on."""

    compiled: Any
    longest: int

    def found_in(self, text: str) -> bool:
        """Whether the pattern is somewhere in ``text``, which must not be longer than ``longest``.

        Raises:
            UnicodeEncodeError: RE2 cannot read the text (it has a lone surrogate).
        """
        return self.compiled.search(text) is not None


def matcher(pattern: object, max_length: object = LONGEST_TEXT, what: str = "BlockRegex") -> Matcher:
    """A matcher for ``pattern`` (a str, or a compiled `re` pattern of one) that no text can keep busy.

    Raises:
        ActGuardUsageError: it is no valid pattern, or not a safe one; ``.field`` is the name of the parameter.
    """
    if not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < 1:
        raise ActGuardUsageError(f"{what}: max_length must be a whole number of at least 1", field="max_length")
    compiled = _compiled(pattern, what)
    automaton = problem = None
    try:
        automaton = Automaton(compiled.pattern, compiled.flags)
        bound = longest_text(automaton)
    except UnsafePattern as unsafe:
        problem, bound = str(unsafe), 0.0
    if problem is not None or automaton is None or not automaton.unlike_re2:
        linear = _linear(compiled)
        if linear is not None:
            return Matcher(linear, max_length)
    if problem is not None:
        raise ActGuardUsageError(
            f"{what}: a text could keep the search for this pattern busy for ages: {problem}. {_ADVICE}",
            field="pattern",
        )
    return Matcher(compiled, int(min(max_length, bound)))


def _compiled(pattern: object, what: str) -> re.Pattern[str]:
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern
    problem = "must be a str or a compiled pattern of one"
    if isinstance(pattern, str):
        problem = f"is longer than {LONGEST_PATTERN} characters"
        if len(pattern) <= LONGEST_PATTERN:
            try:
                return re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                problem = f"is not a regular expression: {error}"
    raise ActGuardUsageError(f"{what}: pattern {problem}", field="pattern")


def _linear(compiled: re.Pattern[str]) -> Any:
    """The same pattern in RE2, or None where that is not installed or does not know it."""
    try:
        re2: Any = importlib.import_module("re2")
    except ImportError:
        return None
    if not hasattr(re2, "Options"):  # another package of that name, which falls back to re
        return None
    options = re2.Options()
    options.log_errors = False
    flags = "".join(
        letter
        for letter, flag in (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL))
        if compiled.flags & flag
    )
    if compiled.flags & re.VERBOSE:
        return None
    try:
        return re2.compile(f"(?{flags}){compiled.pattern}" if flags else compiled.pattern, options)
    except (re2.error, UnicodeEncodeError):
        return None


# --- what a search costs at worst -----------------------------------------------------------------------------------


class _Cost(NamedTuple):
    """``factor * n ** degree / degree!`` steps for a text of ``n`` characters."""

    degree: int
    factor: float

    def steps(self, length: float) -> float:
        return self.factor * length**self.degree / math.factorial(self.degree)


def longest_text(automaton: Automaton) -> float:
    """The longest text, in characters, that a backtracking search is certain to get through in reasonable time.

    Raises:
        UnsafePattern: there is none worth having; the message says why.
    """
    cost = _cost(automaton)
    total = _Cost(max(cost.degree, 1), cost.factor)
    length: float = (_MOST_STEPS * math.factorial(total.degree) / total.factor) ** (1 / total.degree)
    if length < _SHORTEST_BOUND:
        raise UnsafePattern("it can be matched in too many ways, which all are tried")
    return length


def _cost(automaton: Automaton) -> _Cost:
    """A look-around is searched once at every visit, and never gone back into: of several, the worst counts."""
    own = _Examination(automaton).cost()
    inner = max(map(_cost, automaton.lookarounds), key=lambda cost: cost.steps(LONGEST_TEXT), default=_Cost(0, 1.0))
    return _Cost(own.degree + inner.degree, own.factor * inner.factor)


class _Examination:
    """The loops of one automaton, and how much work they make for each other.

    The search itself is a loop too: it begins anew at every character. It becomes one more position, before all
    others, which reads anything.
    """

    def __init__(self, automaton: Automaton) -> None:
        self._chars = automaton.chars
        self._follow = automaton.follow
        self._bound = automaton.bound
        self._accepting = automaton.accepting
        self._visits = 0
        self._search = -1
        if not automaton.anchored:
            self._search = len(self._chars)
            self._chars = [*self._chars, ANYTHING]
            self._follow = [*self._follow, {self._search: 1, **automaton.first}]
            self._bound = [*self._bound, math.inf]
        components = list(_components(self._follow))
        self._component_of = {position: number for number, each in enumerate(components) for position in each}
        self._loops = [each for each in reversed(components) if len(each) > 1 or each[0] in self._follow[each[0]]]

    def cost(self) -> _Cost:
        """The worst chain of loops, each of which can be left at every character for the next one."""
        for loop in self._loops:
            if loop[0] != self._search:
                self._check_nested(loop)
        best: list[_Cost] = []
        for number, loop in enumerate(self._loops):  # in an order in which no loop leads to an earlier one
            bound = max(self._bound[position] for position in loop)
            own = _Cost(1, 1.0) if bound == math.inf else _Cost(0, bound)
            costs = [own]
            for before, cost in zip(self._loops[:number], best, strict=True):
                length = self._shared_text(before, loop)
                if length:
                    self._check_neighbours(before, loop)
                    exits = cost.factor / length if cost.degree else max(cost.factor / length, 1.0)
                    costs.append(_Cost(cost.degree + own.degree, exits * own.factor))
            best.append(max(costs, key=lambda cost: cost.steps(LONGEST_TEXT)))
        worst = max(best, key=lambda cost: cost.steps(LONGEST_TEXT), default=_Cost(0, 1.0))
        return _Cost(worst.degree, worst.factor * self._detours())

    # --- nested quantifiers ---------------------------------------------------------------------------------------

    def _check_nested(self, loop: list[int]) -> None:
        """No text leads around ``loop`` in two ways."""
        component = self._component_of[loop[0]]
        inside = {
            position: [after for after in self._follow[position] if self._component_of[after] == component]
            for position in loop
        }
        twice = any(self._follow[position][after] > 1 for position in loop for after in inside[position])
        if twice or self._meets_again(loop, inside):
            raise UnsafePattern("it has nested quantifiers, which can read the same text in several ways")

    def _meets_again(self, roots: Iterable[int], follow: dict[int, list[int]]) -> bool:
        """Whether two ways that part at one of ``roots`` and read the same text come together again."""
        waiting = [pair for root in roots for pair in self._parting(follow[root])]
        seen = set(waiting)
        while waiting:
            one, two = waiting.pop()
            for pair in ((a, b) for a in follow[one] for b in follow[two] if self._chars[a] & self._chars[b]):
                self._count_visit()
                if pair[0] == pair[1]:
                    return True
                ordered = (min(pair), max(pair))
                if ordered not in seen:
                    seen.add(ordered)
                    waiting.append(ordered)
        return False

    def _parting(self, follow: Iterable[int]) -> Iterator[tuple[int, int]]:
        return (pair for pair in combinations(sorted(follow), 2) if self._chars[pair[0]] & self._chars[pair[1]])

    # --- one loop after another -------------------------------------------------------------------------------------

    def _shared_text(self, before: list[int], after: list[int]) -> int:
        """The length of the shortest text that leads around ``before``, from there to ``after``, and around ``after``.

        0 when there is none: then each text has few places at which the one loop can be left for the other.
        """
        lengths = [
            self._shared_from(p, q, set(before), set(after)) for p in before if p not in self._accepting for q in after
        ]
        return min((length for length in lengths if length), default=0)

    def _shared_from(self, p: int, q: int, before: set[int], after: set[int]) -> int:
        start, goal = (p, p, q), (p, q, q)
        seen, waiting, length = {start}, [start], 0
        while waiting:
            length += 1
            following = []
            for x, y, z in waiting:
                for a in self._follow[x].keys() & before:
                    for c in self._follow[z].keys() & after:
                        both = self._chars[a] & self._chars[c]
                        for b in self._follow[y].keys() - self._accepting if both else ():
                            self._count_visit()
                            triple = (a, b, c)
                            if self._chars[b] & both and triple not in seen:
                                if triple == goal:
                                    return length
                                seen.add(triple)
                                following.append(triple)
            waiting = following
        return 0

    def _check_neighbours(self, before: list[int], after: list[int]) -> None:
        touching = any(self._follow[position].keys() & set(after) for position in before)
        open_ended = all(self._bound[position] == math.inf for position in (before[0], after[0]))
        if touching and open_ended and before[0] != self._search:
            raise UnsafePattern("it has neighbouring quantifiers, which can share the same text in many ways")

    # --- detours ------------------------------------------------------------------------------------------------------

    def _detours(self) -> float:
        """In how many ways, at most, a text can be read by the places outside loops: ``a?a?a?`` reads ``a`` in 3."""
        follow = {position: list(after) for position, after in enumerate(self._follow)}
        in_loops = {position for loop in self._loops for position in loop}
        ways: dict[int, float] = {}
        for component in _components(self._follow):  # those that come last are first here
            position = component[0]
            onward = max((ways[after] for after in follow[position] if after in ways), default=1.0)
            here = 1.0
            if position not in in_loops:
                here = float(max(self._follow[position].values(), default=1))
                if any(True for _ in self._parting(follow[position])) and self._meets_again([position], follow):
                    here *= len(follow[position])
            for member in component:
                ways[member] = min(onward * here, 1e300)
        return max(ways.values(), default=1.0)

    def _count_visit(self) -> None:
        self._visits += 1
        if self._visits > _MOST_VISITS:
            raise UnsafePattern("it is too complex to be checked")


def _components(follow: list[dict[int, int]]) -> Iterator[list[int]]:
    """The strongly connected components, each after all that can be reached from it (Tarjan, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in range(len(follow)):
        work: list[tuple[int, Iterator[int]]] = [] if root in index else [(root, iter(follow[root]))]
        while work:
            position, following = work[-1]
            if position not in index:
                index[position] = low[position] = len(index)
                stack.append(position)
                on_stack.add(position)
            for after in following:
                if after not in index:
                    work.append((after, iter(follow[after])))
                    break
                if after in on_stack:
                    low[position] = min(low[position], index[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[position])
                if low[position] == index[position]:
                    cut = stack.index(position)
                    component, stack[cut:] = stack[cut:], []
                    on_stack.difference_update(component)
                    yield component
