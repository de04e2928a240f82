"""What the scripted provider answers: the three parts, with token counts as agents of this kind have them.

Answers say nothing about which API they are given through, so any SDK can play any part.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from actguard.demo import story
from actguard.testing import Answer, LoopbackProvider, ReceivedRequest, ToolCall

QUERIES = (
    "H-200 hinge cracked",
    "cracked hinge H-200",
    "H-200 hinge fault",
    "H-200 left hinge broken",
    "hinge of the H-200 known fault",
)

ANSWER = (
    "I am sorry about the hinge: a replacement for order A-1042 ships tomorrow, and you need not send the old pair "
    "back. Whether the fault is a known one I could not find out. If the new pair cracks too, write to us again."
)
NOTE = (
    "Customer reports a cracked left hinge on H-200 headphones, order A-1042, six days after delivery. Research on a "
    "known fault was ended by its budget without a result. A replacement was offered under the 30-day policy."
)


def perform(provider: LoopbackProvider, pace: float) -> None:
    """Script the provider. ``pace`` stretches its latency: 1 for people, 0 for tests."""
    provider.script(*_support(pace), when=_says(story.SUPPORT))
    provider.script(_research(pace), when=_says(story.RESEARCH))
    provider.script(
        Answer(text=NOTE, input_tokens=3_150, output_tokens=118, chunks=30, delay=0.5 * pace, chunk_delay=0.07 * pace),
        when=_says(story.SUMMARY),
    )


def _says(instructions: str) -> Callable[[ReceivedRequest], bool]:
    return lambda request: instructions in str(request.body)


def _support(pace: float) -> list[Answer]:
    order = {"order_id": "A-1042"}
    question = {"question": "Is a cracked hinge a known fault of the H-200?"}
    return [
        _calls("look_up_order", order, 1_820, 0, 46, 0.9 * pace),
        _calls("read_policy", {"topic": "damaged goods"}, 1_930, 1_792, 41, 0.8 * pace),
        _calls("ask_research", question, 2_040, 1_792, 58, 0.8 * pace),
        _calls("offer_replacement", order, 2_210, 1_920, 52, 0.9 * pace),
        Answer(text=ANSWER, input_tokens=2_330, cached_input_tokens=2_176, output_tokens=96, delay=1.0 * pace),
    ]


def _research(pace: float) -> Callable[[ReceivedRequest], Answer]:
    """An agent that goes round in circles: it searches with other words, and its prompt grows by a page each time."""
    rounds = count()

    def answer(request: ReceivedRequest) -> Answer:
        turn = next(rounds)
        query = {"query": QUERIES[turn % len(QUERIES)]}
        return _calls("search_manuals", query, 1_900 + 640 * turn, 0, 178, (0.9 if turn < 2 else 0.7) * pace)

    return answer


def _calls(tool: str, arguments: dict[str, str], tokens_in: int, cached: int, tokens_out: int, delay: float) -> Answer:
    return Answer(
        tool_calls=[ToolCall(tool, arguments)],
        input_tokens=tokens_in,
        cached_input_tokens=cached,
        output_tokens=tokens_out,
        delay=delay,
    )
