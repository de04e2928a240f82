"""Patterns that no text can keep busy: what is refused, what is bounded, and that the estimate holds."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from actguard.exceptions import ActGuardUsageError
from actguard.rules import patterns
from actguard.rules.automaton import Automaton, UnsafePattern
from actguard.rules.patterns import LONGEST_TEXT, longest_text, matcher


@pytest.fixture
def without_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)


def bound(pattern: str, flags: int = 0) -> float:
    return longest_text(Automaton(pattern, flags))


NESTED = [
    r"(a+)+",
    r"(a+)+$",
    r"(a|a)*$",
    r"(a|aa)+$",
    r"([a-zA-Z]+)*$",
    r"(\w+\s?)*$",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(x+x+)+y",
    r"([\w.]+)+@",
    r"(?:[^a]|é)*x",
    r"(?i)(?:k|\u212a)*\d(?:[a-z]|K)+!|(?:[a-z]+|\u212a)+!",
    r"((x*)?y)*z",
    r"([^\s]+\s*)*!",
    r"(?:.{1,40}){1,40}#",
    r"(?:(?:\d{1,3}){1,50}){1,50}$",
    r"(?:a|b|ab)*c",
    r"(?>(?:a+)+)b",
    r"\A(?:\d+|\d+\.\d+)*\Z",
    r"(?P<x>(?:ab?)+b?)+$",
]
NEIGHBOURS = [r"a*a*b", r"\d+\d+$", r"\s*\s*=", r"^\d+\w+$", r"\s*,?\s*$", r".*.*x", r"\w*[a-z]*-", r"(?:ab)*(?:ab)+c"]
NULLABLE = [r"(.*)*x", r"(a*)*", r"^(a?){30}a{30}$", r"(?:a|b?)+c", r"(?:\s*){2,}x"]
BACK = [r"(.)\1", r"(?P<q>['\"]).*?(?P=q)", r"(a)?(?(1)b|c)"]
TOO_MANY = [
    r"^" + "a?" * 26 + "a" * 26 + "$",
    r".*x.*y",
    r"a.*b.*c.*d.*e",
    r"(?:(?=.*x).)*y",
    r"a{1,500}.{1,500}b",
]
SAFE = [
    r"drop\s+table",
    r"(?i)\bdrop\s+table\b",
    r"\b\d{16}\b",
    r"\b(?:\d[ -]*?){13,16}\b",
    r"[\w.+-]+@[\w-]+\.[\w.-]+",
    r"(?i)ignore.*instructions",
    r"(?i)ignore\s+(?:all\s+)?(?:the\s+)?previous\s+instructions",
    r"ignore.{0,80}previous.{0,80}instructions",
    r"https?://(?:www\.)?[a-z0-9-]+\.(?:com|net|org)(?:/\S*)?",
    r"(?:;|--|/\*)",
    r"<script[^>]*>.*?</script>",
    r"^\s+|\s+$",
    r"\b[A-Z]{2}\d{2}[A-Z0-9]{11,30}\b",
    r"[a-z]+(?:,[a-z]+)*",
    r"(?:\w+\s)+end",
    r"\.\./",
    r"\b(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}\b",
    r".*password.*",
    r"sk-[A-Za-z0-9]{20,60}",
    r"'\s*(?:or|and)\s+\d+\s*=\s*\d+",
    r"colou?r",
    r"^(?=.*\d)(?=.*[a-z]).{8,64}$",
    r"(?s)/\*.*?\*/",
    r'"(?:[^"\\]|\\.)*"',
    r"(?x) a  b   # with a comment",
    r"(?:foo|bar|baz)+",
    r"\w+(?:-\w+)*",
    r"",
    r"^$",
    r"(?!)",
    r"a{0}b",
    r"\b(?:" + "|".join(f"word{number}" for number in range(100)) + r")\b",
]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [(pattern, "nested") for pattern in NESTED]
    + [(pattern, "neighbouring") for pattern in NEIGHBOURS]
    + [(pattern, "nothing") for pattern in NULLABLE]
    + [(pattern, "back") for pattern in BACK]
    + [(pattern, "many ways|look-ahead") for pattern in TOO_MANY],
)
def test_catastrophic_patterns_are_refused_when_the_rule_is_made(without_re2: None, pattern: str, why: str) -> None:
    with pytest.raises(UnsafePattern, match=why):
        bound(pattern)
    with pytest.raises(ActGuardUsageError, match=why) as caught:
        matcher(pattern)
    assert caught.value.field == "pattern"
    assert "actguard[re2]" in str(caught.value)


@pytest.mark.parametrize("pattern", SAFE)
def test_patterns_that_people_write_are_accepted(without_re2: None, pattern: str) -> None:
    made = matcher(pattern)
    assert 1_000 <= made.longest <= LONGEST_TEXT
    assert made.found_in("nothing of it here") is (re.search(pattern, "nothing of it here") is not None)


def test_the_longest_text_depends_on_what_a_pattern_costs(without_re2: None) -> None:
    assert matcher(r"drop\s+table").longest == LONGEST_TEXT
    assert matcher(r"drop\s+table", max_length=50_000).longest == 50_000
    quadratic = matcher(r"\s+$").longest
    cubic = matcher(r"ignore.*previous.*rules").longest
    assert 1_000 < cubic < quadratic < LONGEST_TEXT
    assert matcher(r"\s+$", max_length=100).longest == 100


def test_loops_that_end_the_search_cost_nothing(without_re2: None) -> None:
    assert bound(r"transfer.*\d+") > LONGEST_TEXT
    assert bound(r"a+(?:b?a+c)?") == bound(r"a+")
    with pytest.raises(UnsafePattern, match="neighbouring"):
        bound(r"transfer.*\d+$")


def test_look_arounds_cost_what_is_searched_in_them(without_re2: None) -> None:
    assert bound(r"(?=y)x") > LONGEST_TEXT > bound(r"(?=.*y)x")
    assert bound(r"\A(?=.*y)x") > LONGEST_TEXT
    with pytest.raises(UnsafePattern):
        bound(r"(?=(?=.*y).*z)x")


def test_flags_count(without_re2: None) -> None:
    assert bound(r"(?:a|B)+c") == bound(r"(?:a|b)+c")
    with pytest.raises(UnsafePattern):
        bound(r"(?:ab|AB)+c", re.IGNORECASE)
    with pytest.raises(UnsafePattern):
        bound(r"(?:ab|(?i:Ab))+c")
    bound(r"(?:\n|.)+x")
    with pytest.raises(UnsafePattern):
        bound(r"(?:\n|(?s:.))+x")
    bound(r"(?:éa|\wa)+x", re.ASCII)
    with pytest.raises(UnsafePattern):
        bound(r"(?:éa|\wa)+x")
    assert matcher(re.compile("DROP", re.IGNORECASE)).found_in("please drop it")


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (None, "must be a str"),
        (5, "must be a str"),
        (b"bytes", "must be a str"),
        (re.compile(b"bytes"), "must be a str"),
        ("(", "not a regular expression"),
        ("[z-a]", "not a regular expression"),
        ("a{99999999999999999999}", "not a regular expression"),
        ("(" * 5_000 + ")" * 5_000, "not a regular expression"),
        ("a" * 20_001, "longer than 20000"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_pattern_is_said_to_be_none(pattern: Any, problem: str) -> None:
    with pytest.raises(ActGuardUsageError, match=problem) as caught:
        matcher(pattern)
    assert caught.value.field == "pattern"


@pytest.mark.parametrize("length", [0, -1, True, 1.5, "10", None])
def test_a_wrong_length_names_the_parameter(length: Any) -> None:
    with pytest.raises(ActGuardUsageError, match="max_length") as caught:
        matcher("a", max_length=length)
    assert caught.value.field == "max_length"


def test_huge_patterns_are_refused_rather_than_examined_for_ages() -> None:
    many_loops = "(?:" + "|".join(f"{number}[a-z]+" for number in range(999)) + ")+"
    for pattern in (r"(?:[a-z]{60}){60}", "a?" * 400, many_loops, "a" * 9_000):
        with pytest.raises(UnsafePattern):
            bound(pattern)


# --- with RE2 -------------------------------------------------------------------------------------------------------


def test_re2_searches_what_it_understands_as_re_does() -> None:
    pytest.importorskip("re2")
    assert not isinstance(matcher(r"(a+)+b").compiled, re.Pattern)
    assert matcher(r"(a+)+b").longest == LONGEST_TEXT
    assert not matcher(r"(a+)+b").found_in("a" * LONGEST_TEXT)
    assert matcher(re.compile(r"(x.)+y", re.IGNORECASE | re.DOTALL)).found_in("X\nY")
    assert not isinstance(matcher(r"[a-z]+@").compiled, re.Pattern)
    with pytest.raises(UnicodeEncodeError):
        matcher(r"[a-z]+@").found_in("\ud800")


def test_re2_is_not_asked_what_it_takes_in_another_way() -> None:
    pytest.importorskip("re2")
    for pattern in (r"drop\s+table", r"\bdrop", r"drop$", r"\w+!"):
        assert isinstance(matcher(pattern).compiled, re.Pattern)
    assert matcher(r"drop\s+table").found_in("drop\u00a0table")


def test_what_neither_engine_can_do_safely_is_refused() -> None:
    with pytest.raises(ActGuardUsageError, match="refers back"):
        matcher(r"(.+)\1")


class ForeignRe2:
    """A package of the same name that falls back to re behind one's back."""

    compile = staticmethod(re.compile)
    error = re.error


def test_another_package_of_that_name_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", ForeignRe2)
    with pytest.raises(ActGuardUsageError):
        matcher(r"(a+)+b")


# --- the estimate, against a backtracking matcher that counts its steps ---------------------------------------------


class TooManySteps(Exception):
    pass


def count_steps(pattern: str, text: str, most: int) -> int:
    """How many steps a plain backtracking search takes. It knows what `random_patterns` writes."""
    steps = 0

    def tick() -> None:
        nonlocal steps
        steps += 1
        if steps > most:
            raise TooManySteps

    def reads(operator: str, argument: Any, char: str) -> bool:
        if operator == "IN":
            negate = str(argument[0][0]) == "NEGATE"
            return any(ord(char) == code for _, code in argument[negate:]) is not negate
        return operator == "ANY" or (ord(char) == argument) is (operator == "LITERAL")

    def match(items: Any, index: int, at: int, go_on: Callable[[int], bool]) -> bool:
        if index == len(items):
            return go_on(at)
        operator, argument = str(items[index][0]), items[index][1]

        def rest(position: int) -> bool:
            return match(items, index + 1, position, go_on)

        if operator == "SUBPATTERN":
            return match(argument[3], 0, at, rest)
        if operator == "BRANCH":
            return any(match(branch, 0, at, rest) for branch in argument[1])
        if operator == "AT":
            return at == (len(text) if "END" in str(argument) else 0) and rest(at)
        if operator in {"MAX_REPEAT", "MIN_REPEAT"}:
            return repeat(argument, operator == "MAX_REPEAT", 0, at, rest)
        tick()
        return at < len(text) and reads(operator, argument, text[at]) and rest(at + 1)

    def repeat(argument: Any, greedy: bool, count: int, at: int, rest: Callable[[int], bool]) -> bool:
        least, most_times, inner = argument
        tick()

        def once_more() -> bool:
            return count < most_times and match(
                inner,
                0,
                at,
                lambda then: (then > at or count < least) and repeat(argument, greedy, count + 1, then, rest),
            )

        def enough() -> bool:
            return count >= least and rest(at)

        return (once_more() or enough()) if greedy else (enough() or once_more())

    tree = list(importlib.import_module("re._parser").parse(pattern))
    for start in range(len(text) + 1):
        if match(tree, 0, start, lambda _: True):
            break
    return steps


def random_patterns() -> st.SearchStrategy[str]:
    atoms = st.sampled_from(["a", "b", "[ab]", ".", "[^a]", "ab", "ba"])
    counts = st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}", "{2,20}", "{,15}"])

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return (
            st.tuples(inner, inner).map("".join)
            | st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})")
            | st.tuples(inner, counts).map(lambda two: f"(?:{two[0]}){two[1]}")
        )

    tails = st.sampled_from(["", "$", "c", "c", "$"])
    return st.tuples(st.recursive(atoms, larger, max_leaves=5), tails).map("".join)


LENGTH = 36
TEXTS = [
    (word * LENGTH)[: LENGTH - 1] + last
    for word in ("a", "b", "c", "ab", "aab", "abb", "ac")
    for last in ("a", "b", "c")
]


@settings(max_examples=60, deadline=None)
@given(random_patterns(), st.lists(st.sampled_from(TEXTS), min_size=6, max_size=6, unique=True))
def test_no_search_takes_more_steps_than_estimated(pattern: str, texts: list[str]) -> None:
    automaton = Automaton(pattern, 0) if not unsafe(pattern) else None
    assume(automaton is not None)
    cost = patterns._cost(automaton)  # type: ignore[arg-type]
    estimate = cost._replace(degree=max(cost.degree, 1)).steps(LENGTH)
    most = int(4 * estimate * (len(pattern) + 4))
    for text in texts:
        assert count_steps(pattern, text, most) <= most


def unsafe(pattern: str) -> bool:
    try:
        bound(pattern)
    except UnsafePattern:
        return True
    return False


def test_the_counting_matcher_counts() -> None:
    """Or the property above could not fail."""
    with pytest.raises(TooManySteps):
        count_steps("(?:a+)+c", "a" * LENGTH, 100_000)
    assert count_steps("a*c", "a" * LENGTH, 100_000) > LENGTH**2 / 2
