"""The ticket, the tools and the instructions. Everything in it is made up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

TICKET = (
    "Hello, my H-200 headphones (order A-1042) came last week and the left hinge has cracked. "
    "Is that a known fault, and do I get new ones?"
)

SUPPORT = (
    "You are the support agent of a small shop. Look the order up, read the policy, have the research agent find out "
    "whether the fault is known, then offer a replacement if the policy allows it, and answer the customer in three "
    "sentences. Use one tool at a time."
)
RESEARCH = (
    "You are the research agent. Find in the manuals whether the fault is known. Search again in other words, one "
    "search at a time, until you have found a page that settles it; do not answer before."
)
SUMMARY = "You are the archivist. Sum the case up for the files in three short sentences."


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call. All parameters are texts."""

    name: str
    description: str
    parameters: Mapping[str, str]
    """What each parameter means, by its name."""
    run: Callable[..., Awaitable[str]]


async def _look_up_order(order_id: str) -> str:
    return f"Order {order_id}: H-200 headphones, 129.00 USD, delivered 6 days ago, paid, no earlier complaint."


async def _read_policy(topic: str) -> str:
    return "Damaged within 30 days of delivery: replacement or refund without return, once per order."


async def _offer_replacement(order_id: str) -> str:
    return f"Replacement for order {order_id} reserved; ships tomorrow."


_PAGES = (
    "H-200 manual, chapter 2, Fitting: Open the band with both hands. The hinges click into three positions; the "
    "middle one is meant for glasses. Do not twist the band. Cushions can be washed by hand in lukewarm water and "
    "need a night to dry. Nothing on this page mentions a cracked hinge. See also: Storage.",
    "H-200 manual, chapter 5, Storage: Fold both cups inwards and keep the headphones in their case, away from "
    "heat and sunlight. A battery that rests for months should be charged to about one half. Nothing on this page "
    "mentions a cracked hinge. See also: Spare parts.",
    "H-200 manual, chapter 9, Spare parts: Cushions HP-201, case HP-207, cable HP-210, band cover HP-215. Hinges "
    "are not sold as a spare part. Orders are taken by telephone on working days. Nothing on this page says "
    "whether a fault of the hinge is known. See also: Fitting.",
)


async def _search_manuals(query: str) -> str:
    return _PAGES[len(query) % len(_PAGES)]


LOOK_UP_ORDER = Tool("look_up_order", "Look an order up.", {"order_id": "like A-1042"}, _look_up_order)
READ_POLICY = Tool("read_policy", "Read the shop's policy.", {"topic": "what it is about"}, _read_policy)
OFFER_REPLACEMENT = Tool("offer_replacement", "Offer a replacement.", {"order_id": "like A-1042"}, _offer_replacement)
SEARCH_MANUALS = Tool("search_manuals", "Search the manuals.", {"query": "words to look for"}, _search_manuals)

ASK_RESEARCH = "ask_research"
"""The tool that is an agent itself; `actguard.demo.agents` makes it."""
