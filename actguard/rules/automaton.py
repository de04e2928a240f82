"""A regular expression as an automaton, to see how a backtracking engine could get lost in it.

One position for every place in the pattern where a character is read, and for every two positions in how many ways one
can follow the other (0, 1 or "2 and more"). Counting the ways matters: in ``(a*)*`` an ``a`` follows an ``a`` through
the inner or the outer loop, and a backtracking engine tries both.

Characters are kept as bit sets over 132 classes: each ASCII character, and the white space, digits, other word
characters and other characters beyond ASCII. A set may be larger than the truth, never smaller: that can only make a
pattern look worse than it is. The same is true of long counted repetitions, which are read as loops with a bound.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

# The standard library's own parser: private, but it is what compiles the pattern, so nothing is read in another way.
_parser: Any = importlib.import_module("re._parser")

_SPACE_CLASS, _DIGIT_CLASS, _WORD_CLASS, _OTHER_CLASS = (1 << bit for bit in range(128, 132))
_BEYOND_ASCII = _SPACE_CLASS | _DIGIT_CLASS | _WORD_CLASS | _OTHER_CLASS
ANYTHING: Final = (1 << 132) - 1
_NEWLINE = 1 << ord("\n")
_FOLDS_BEYOND_ASCII = frozenset("iksIKS")
"""Letters that equal a letter beyond ASCII when case is ignored."""

_MOST_POSITIONS = 3_000
_MOST_EDGES = 60_000
_MOST_COPIES = 8
"""A repetition of up to so many is read as that many copies, a longer one as a loop with a bound."""
_MOST_EXACT_COPIES = 64
"""The same for a repetition of an exact number."""


class UnsafePattern(Exception):
    """The pattern could keep a backtracking engine busy for ages; the message says why, as the end of a sentence."""


class _Chars(NamedTuple):
    """A set of characters: all that may be in it, and all that certainly are (what a negation may leave out)."""

    may: int
    must: int


class Fragment(NamedTuple):
    """A part of the pattern: how it can begin and end, and in how many ways it can match nothing."""

    first: dict[int, int]
    last: dict[int, int]
    nullable: int
    sure: frozenset[int]
    """Those in ``last`` after which nothing, not even an anchor, stands between them and the end of the part."""
    surely_nullable: bool


_EMPTY: Final = Fragment({}, {}, 1, frozenset(), True)
_CONDITION: Final = Fragment({}, {}, 1, frozenset(), False)


class Automaton:
    """The positions of a pattern and how they follow each other.

    Raises:
        UnsafePattern: the pattern has a back reference, repeats a part that can match nothing, or is too large.
        re.error: it is no pattern at all.
    """

    def __init__(self, pattern: str, flags: int) -> None:
        tree = _parser.parse(pattern, flags)
        self._reset()
        self._flags = tree.state.flags
        self._finish(self._sequence(tree, self._flags))
        self.anchored = len(tree) > 0 and self._is_start(tree[0])

    @classmethod
    def _of_lookaround(cls, tree: Any, flags: int) -> Automaton:
        inner = cls.__new__(cls)
        inner._reset()
        inner._finish(inner._sequence(tree, flags))
        inner.anchored = True
        return inner

    def _reset(self) -> None:
        self.chars: list[int] = []
        """What each position may read."""
        self.follow: list[dict[int, int]] = []
        """Which positions can come next, and in how many ways (2 stands for more, too)."""
        self.bound: list[float] = []
        """How often a position can come in a row at most; infinity in an open loop."""
        self.lookarounds: list[Automaton] = []
        self.anchored = False
        """Whether a match can begin at the start of the text only."""
        self.unlike_re2 = False
        r"""Whether it says something that RE2 takes in another way: ``\s``, ``\b``, ``$``, ``\w`` beyond ASCII."""
        self._edges = 0
        self._depth = 0

    def has_loops(self) -> bool:
        """Whether it or a look-around in it has a loop that is not read as copies."""
        return any(bound > 1 for bound in self.bound) or any(inner.has_loops() for inner in self.lookarounds)

    def _finish(self, whole: Fragment) -> None:
        self.first = whole.first
        self.accepting = whole.sure
        """Positions at which a match is certain: the search ends there."""

    def _is_start(self, item: Any) -> bool:
        if str(item[0]) != "AT":
            return False
        name = str(item[1])
        return name == "AT_BEGINNING_STRING" or (name == "AT_BEGINNING" and not self._flags & re.MULTILINE)

    # --- parts --------------------------------------------------------------------------------------------------

    def _sequence(self, items: Iterable[Any], flags: int) -> Fragment:
        whole = _EMPTY
        for item in items:
            whole = self._join(whole, self._part(item, flags))
        return whole

    def _part(self, item: Any, flags: int) -> Fragment:
        operator, argument = str(item[0]), item[1]
        if operator in {"LITERAL", "NOT_LITERAL", "ANY", "IN"}:
            return self._position(self._set(operator, argument, flags).may)
        if operator == "BRANCH":
            return self._branch([self._sequence(branch, flags) for branch in argument[1]])
        if operator == "SUBPATTERN":
            _, more, fewer, inner = argument
            return self._sequence(inner, (flags | more) & ~fewer)
        if operator == "ATOMIC_GROUP":
            return self._sequence(argument, flags)
        if operator in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
            least, most, inner = argument
            return self._repeat(least, most, inner, flags)
        if operator in {"ASSERT", "ASSERT_NOT"}:
            return self._lookaround(argument[1], flags)
        if operator == "AT":
            name = str(argument)
            self.unlike_re2 |= "BOUNDARY" in name or (name == "AT_END" and not flags & re.MULTILINE)
            return _CONDITION
        if operator == "FAILURE":
            return _CONDITION
        raise UnsafePattern("it refers back to a group")

    def _position(self, chars: int) -> Fragment:
        if len(self.chars) >= _MOST_POSITIONS:
            raise UnsafePattern("it is too large to be checked")
        self.chars.append(chars)
        self.follow.append({})
        self.bound.append(1.0)
        here = {len(self.chars) - 1: 1}
        return Fragment(here, here, 0, frozenset(here), False)

    def _branch(self, branches: list[Fragment]) -> Fragment:
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for branch in branches:
            first |= branch.first
            last |= branch.last
        return Fragment(
            first,
            last,
            min(2, sum(branch.nullable for branch in branches)),
            frozenset().union(*(branch.sure for branch in branches)),
            any(branch.surely_nullable for branch in branches),
        )

    def _join(self, one: Fragment, two: Fragment) -> Fragment:
        self._connect(one.last, two.first)
        return Fragment(
            _added(one.first, two.first, one.nullable),
            _added(two.last, one.last, two.nullable),
            min(2, one.nullable * two.nullable),
            two.sure | one.sure if two.surely_nullable else two.sure,
            one.surely_nullable and two.surely_nullable,
        )

    def _connect(self, last: dict[int, int], first: dict[int, int]) -> None:
        self._edges += len(last) * len(first)
        if self._edges > _MOST_EDGES:
            raise UnsafePattern("it is too large to be checked")
        for position, ways in last.items():
            follow = self.follow[position]
            for after, more in first.items():
                follow[after] = min(2, follow.get(after, 0) + ways * more)

    def _repeat(self, least: int, most: int, inner: Any, flags: int) -> Fragment:
        if most == 0:
            return _EMPTY
        self._depth += most > 1
        begin = len(self.chars)
        part = self._sequence(inner, flags)
        if most > 1 and part.nullable and part.first:
            raise UnsafePattern("it repeats a part that can match nothing")
        if most == 1 or not part.first:
            whole = part
        elif most <= _MOST_COPIES or least == most <= _MOST_EXACT_COPIES:
            whole = self._copies(part, max(least, 1), most, inner, flags)
        else:
            self._connect(part.last, part.first)
            for position in range(begin, len(self.chars)):
                self.bound[position] *= math.inf if most == _parser.MAXREPEAT else most
            whole = part
        self._depth -= most > 1
        return self._optional(whole) if least == 0 else whole

    def _copies(self, part: Fragment, least: int, most: int, inner: Any, flags: int) -> Fragment:
        """``least`` to ``most`` copies in a row, of which ``part`` is the first."""
        parts = [part, *(self._sequence(inner, flags) for _ in range(most - 1))]
        tail = _EMPTY
        for optional in reversed(parts[least:]):
            tail = self._optional(self._join(optional, tail))
        whole = parts[0]
        for required in parts[1:least]:
            whole = self._join(whole, required)
        return self._join(whole, tail)

    def _optional(self, part: Fragment) -> Fragment:
        return part._replace(nullable=min(2, part.nullable + 1), surely_nullable=True)

    def _lookaround(self, inner: Any, flags: int) -> Fragment:
        ahead = Automaton._of_lookaround(inner, flags)
        if self._depth and ahead.has_loops():
            raise UnsafePattern("it repeats a look-ahead that has a loop of its own")
        if ahead.chars:
            self.lookarounds.append(ahead)
        return _CONDITION

    # --- characters ---------------------------------------------------------------------------------------------

    def _set(self, operator: str, argument: Any, flags: int) -> _Chars:
        if operator == "LITERAL":
            return _literal(argument, flags)
        if operator == "NOT_LITERAL":
            return _negated(_literal(argument, flags))
        if operator == "ANY":
            everything = ANYTHING if flags & re.DOTALL else ANYTHING & ~_NEWLINE
            return _Chars(everything, everything)
        if operator == "RANGE":
            low, high = argument
            return _range(low, high, flags)
        if operator == "CATEGORY":
            return self._category(str(argument), flags)
        negate = bool(argument) and str(argument[0][0]) == "NEGATE"
        may = must = 0
        for item in argument[negate:]:
            chars = self._set(str(item[0]), item[1], flags)
            may |= chars.may
            must |= chars.must
        return _negated(_Chars(may, must)) if negate else _Chars(may, must)

    def _category(self, name: str, flags: int) -> _Chars:
        only_ascii = bool(flags & re.ASCII)
        self.unlike_re2 |= not only_ascii or name.endswith("SPACE")  # RE2's \s lacks the vertical tab
        chars = _CATEGORIES[name.removeprefix("CATEGORY_").removeprefix("NOT_"), only_ascii]
        exact = _Chars(chars, chars)
        return _negated(exact) if "_NOT_" in name else exact


def _added(one: dict[int, int], two: dict[int, int], ways: int) -> dict[int, int]:
    """``one``, and ``two`` as often as ``ways``."""
    return {**one, **{position: min(2, more * ways) for position, more in two.items()}} if ways else one


def _ascii(test: Any) -> int:
    return sum(1 << code for code in range(128) if test(chr(code)))


_ASCII_WORD = _ascii(lambda char: char.isalnum() or char == "_")
_ASCII_DIGIT = _ascii(str.isdecimal)
_CATEGORIES = {
    ("DIGIT", True): _ASCII_DIGIT,
    ("DIGIT", False): _ASCII_DIGIT | _DIGIT_CLASS,
    ("SPACE", True): _ascii(lambda char: char in " \t\n\r\f\v"),
    ("SPACE", False): _ascii(str.isspace) | _SPACE_CLASS,
    ("WORD", True): _ASCII_WORD,
    ("WORD", False): _ASCII_WORD | _DIGIT_CLASS | _WORD_CLASS,
}


def _negated(chars: _Chars) -> _Chars:
    return _Chars(ANYTHING & ~chars.must, ANYTHING & ~chars.may)


def _class_of(char: str) -> int:
    if char.isascii():
        return 1 << ord(char)
    if char.isspace():
        return _SPACE_CLASS
    if char.isdecimal():
        return _DIGIT_CLASS
    return _WORD_CLASS if char.isalnum() else _OTHER_CLASS


def _literal(code: int, flags: int) -> _Chars:
    char = chr(code)
    may = _class_of(char)
    must = may if char.isascii() else 0
    if flags & re.IGNORECASE:
        for variant in char.lower() + char.upper():
            may |= _class_of(variant)
            if char.isascii():
                must |= _class_of(variant)
        if char in _FOLDS_BEYOND_ASCII and not flags & re.ASCII:
            may |= _WORD_CLASS
    return _Chars(may, must)


def _range(low: int, high: int, flags: int) -> _Chars:
    may = must = 0
    for code in range(low, min(high, 127) + 1):
        chars = _literal(code, flags)
        may |= chars.may
        must |= chars.must
    if high > 127:
        may |= _BEYOND_ASCII
        if flags & re.IGNORECASE:
            may |= _CATEGORIES["WORD", True]
    return _Chars(may, must)
