"""What tests of agents need, ActGuard's own and yours.

`LoopbackProvider` is a local server that the real SDK clients of OpenAI, Anthropic and Google talk to. `Answer`,
`ToolCall`, `Failure`, `Hang`, `Reset` and `Gate` script it; `ReceivedRequest` and `Billed` say what it saw.
`capture_events` collects what a client publishes, `HandClock` is a clock to move by hand.
"""

from __future__ import annotations

from actguard.testing.answers import Answer, Failure, Finish, Gate, Hang, Reply, ReplyFunction, Reset, ToolCall
from actguard.testing.capture import CapturedEvents, capture_events
from actguard.testing.clock import HandClock
from actguard.testing.provider import LoopbackProvider
from actguard.testing.received import Billed, Platform, Provider, ReceivedRequest

__all__ = [
    "Answer",
    "Billed",
    "CapturedEvents",
    "Failure",
    "Finish",
    "Gate",
    "HandClock",
    "Hang",
    "LoopbackProvider",
    "Platform",
    "Provider",
    "ReceivedRequest",
    "Reply",
    "ReplyFunction",
    "Reset",
    "ToolCall",
    "capture_events",
]
