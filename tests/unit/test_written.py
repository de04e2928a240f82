"""What a text has at the least in tokens: never more than it has, and not much less for what models write."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actguard.integrations.written import KEPT_PIECES, Written, input_at_least, tokens_at_least
from actguard.money.usage import Usage

COUNTED = {
    "prose": ("The cat sat on the mat, and then it went out to see if there was any milk left.", 21, 21, 21),
    "long words": (
        "Structuring a database schema effectively is crucial for ensuring maintainability, performance, and "
        "comprehensive documentation of organizational responsibilities.",
        22,
        22,
        22,
    ),
    "digits": ("31415926535897932384626433832795028841971693993751", 17, 17, 22),
    "blanks": ("x" + " " * 200 + "\n\n\n\n\t\t\t\ty", 6, 6, 7),
    "ornaments": ("=" * 400 + "\n" + "-" * 300 + "\n", 12, 12, 11),
    "html": ('<div class="container-fluid"><span class="badge badge-primary">Notification</span></div>\n', 19, 19, 23),
    "chinese": (
        "人工智能正在改变我们开发软件的方式，许多公司正在重新评估他们的生产流程，并且希望通过自动化来提高效率。",
        49,
        31,
        47,
    ),
    "japanese": (
        "人工知能はソフトウェア開発の方法を大きく変えており、多くの企業が生産プロセスを見直し、自動化によって効率を高めようとしています。",
        65,
        48,
        63,
    ),
    "korean": (
        "인공지능은 소프트웨어 개발 방식을 크게 변화시키고 있으며, 많은 기업들이 생산 공정을 재검토하고 있습니다.",
        59,
        28,
        62,
    ),
    "russian": (
        "Искусственный интеллект значительно изменил подходы к разработке программного обеспечения, и многие "
        "организации пересматривают свои производственные процессы.",
        66,
        28,
        72,
    ),
    "hindi": (
        "कृत्रिम बुद्धिमत्ता सॉफ्टवेयर विकास के तरीकों को बदल रही है और कई कंपनियाँ अपनी उत्पादन प्रक्रियाओं की समीक्षा कर रही हैं।",
        118,
        34,
        133,
    ),
    "thai": ("ปัญญาประดิษฐ์กำลังเปลี่ยนแปลงวิธีการพัฒนาซอฟต์แวร์ และหลายบริษัทกำลังทบทวนกระบวนการผลิตของตน", 95, 44, 171),
    "emoji": ("🎉🚀😀👍🔥✨🙏👩‍💻🇩🇪❤️", 35, 19, 31),
}
"""Texts with the tokens that three tokenizers cut them into: OpenAI's of 2023 and of 2024, Anthropic's of 2023."""


@pytest.mark.parametrize(("text", "counts"), [(text, counts) for text, *counts in COUNTED.values()], ids=COUNTED)
def test_no_tokenizer_makes_less_of_a_text(text: str, counts: list[int]) -> None:
    assert tokens_at_least(text) <= min(counts)


@pytest.mark.parametrize(
    "name", ["prose", "long words", "digits", "html", "chinese", "japanese", "korean", "russian", "hindi"]
)
def test_it_is_at_least_half_of_what_a_newer_tokenizer_makes_of_it(name: str) -> None:
    text, _, newer, _ = COUNTED[name]
    assert tokens_at_least(text) >= newer / 2


WORDS = st.sampled_from(["the", "for", "x1", "=>", "self.value", "{", "}", '"name":', "42", "日本", "été", "ok👍"])
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=12)), max_size=60).map(" ".join)


@given(TEXTS, st.lists(st.integers(0, 400), max_size=30))
def test_how_a_text_is_cut_into_pieces_adds_nothing(text: str, places: list[int]) -> None:
    written = Written()
    edges = sorted({0, len(text), *(min(place, len(text)) for place in places)})
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        written.add(text[start:end])
        if number % 3 == 0:
            assert written.tokens_at_least <= tokens_at_least(text) + 1
    assert written.tokens_at_least <= tokens_at_least(text) + 1


@given(TEXTS)
def test_a_text_never_has_more_tokens_than_bytes(text: str) -> None:
    """Which is what every tokenizer falls back to."""
    assert tokens_at_least(text) <= len(text.encode())


@given(TEXTS, TEXTS)
def test_more_text_never_has_fewer_tokens(text: str, more: str) -> None:
    written = Written()
    written.add(text)
    before = written.tokens_at_least
    written.add(more)
    assert written.tokens_at_least >= before


def test_pieces_are_not_kept_for_ever() -> None:
    written = Written()
    for _ in range(10 * KEPT_PIECES):
        written.add("word ")
    assert len(written._pieces) < KEPT_PIECES
    assert written.tokens_at_least == 10 * KEPT_PIECES


def test_input_may_come_from_the_cache() -> None:
    assert input_at_least(Usage(uncached_input_tokens=30)) == Usage(cache_read_tokens=10)
