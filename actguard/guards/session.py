"""Sessions: what belongs to one conversation or user, for the chain of custody (`prove`, `enforce`, `trust`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import NamedTuple

from actguard import clock
from actguard.context import current_session
from actguard.exceptions import ActGuardUsageError, GuardError, SessionUsageError, called
from actguard.guards.protocol import Named, refused
from actguard.guards.state import shared
from actguard.guards.tools import Tool, shown_name
from actguard.rules import checks, facts
from actguard.scope import Scope

_NOTED_ANEW_S = 60.0


class Session(Scope["Session"]):
    """What `session` returns and what entering it yields. It can be entered again, also inside itself."""

    __slots__ = ("_key", "_noted", "id", "scope")

    def __init__(self, id: str, scope: Mapping[str, str] | None) -> None:
        self.id: str = checks.name(id, "id", "session", SessionUsageError)
        if scope is not None and not isinstance(scope, Mapping):
            raise SessionUsageError(
                f"session: scope must be a dict of str to str, not {type(scope).__name__}", field="scope"
            )
        for name, value in (scope or {}).items():
            kinds = f"{type(name).__name__} to {type(value).__name__}"
            if kinds != "str to str":
                raise SessionUsageError(f"session: scope must be a dict of str to str, not of {kinds}", field="scope")
        self.scope: Mapping[str, str] = MappingProxyType(dict(scope or {}))
        self._key = facts.session_key(id, self.scope)
        self._noted: dict[str, float] = {}
        """When each tool's success was noted here: a step is kept for a day, so once in a minute is enough."""

    def __repr__(self) -> str:
        return f"<Session {self.id!r:.80}>"

    @property
    def key(self) -> facts.SessionKey:
        """What its facts are kept under."""
        return self._key

    def mint(self, kind: str, value: object, ttl: float) -> bool:
        """Vouch for ``value`` as a ``kind``, for ``ttl`` seconds; False when it cannot be an id."""
        key = facts.fact_key(self._key, kind, value)
        if key is None:
            return False
        shared.apply(key, facts.mint, clock.monotonic() + ttl)
        return True

    def succeeded(self, tool: Tool) -> None:
        """Remember that ``tool`` has succeeded, under each of its names."""
        now = clock.monotonic()
        if 0 <= now - self._noted.get(tool.name, -_NOTED_ANEW_S) < _NOTED_ANEW_S:
            return  # a loop that calls one tool a thousand times: 3 µs for each call otherwise
        for name in tool.names:
            shared.apply(facts.step_key(self._key, name), facts.record_step, now)
        self._noted[tool.name] = now

    async def __aenter__(self) -> Session:
        current_session.set(_Entered(self, current_session.get()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = current_session.get()
        if entered is not None and entered.session is self:
            current_session.set(entered.outer)


class _Entered(NamedTuple):
    """One entry of a session, and what was active before."""

    session: Session
    outer: _Entered | None


def active_session() -> Session | None:
    """The session that is active here, or None."""
    entered = current_session.get()
    return None if entered is None else entered.session


def session_of(guard: Named) -> Session:
    """The active session, which ``guard`` needs.

    Raises:
        GuardError: there is none (code ``NO_SESSION``); announced.
    """
    entered: _Entered | None = current_session.get()
    if entered is None:
        raise refused(guard, _no_session(f"{guard.name} of {called(shown_name(guard.tool))}"))
    return entered.session


def _no_session(what: str) -> GuardError:
    return GuardError(
        "NO_SESSION",
        f"{what} needs an active session: enter `actguard.session(id)` around the agent.",
        fix_hint="Do not call this tool again; tell the user that it is not available here.",
    )


def session(id: str, scope: Mapping[str, str] | None = None) -> Session:
    """The scope in which facts are proven and enforced; enter it with ``async with`` or ``with``.

    Facts belong to ``id`` and ``scope`` together. They are invisible to every other session and scope, and a later
    session of the same id and scope finds them again until they expire. Sessions nest; the innermost counts.

    Args:
        id: names the conversation or user. Whoever knows it can use its facts: do not let a model choose it.
        scope: narrows it down, such as ``{"tenant": "acme"}``; names and values are str.

    Raises:
        SessionUsageError: an argument is of a wrong type or empty.

    Example:
        ``async with actguard.session(f"chat-{chat.id}"): await agent.run(message)``
    """
    return Session(id, scope)


def trust(kind: str, value: object, *, ttl: float = 3600) -> None:
    """Vouch for an id that the user typed, or that you know from elsewhere: `RequireFact` takes it as proven.

    Args:
        kind: what it is an id of, as in `prove` and `RequireFact`.
        value: the id: a str, a number, a UUID, … ``1`` and ``"1"`` are the same id.
        ttl: how long it holds, in seconds.

    Raises:
        GuardError: no session is active (code ``NO_SESSION``).
        ActGuardUsageError: ``kind`` or ``ttl`` is wrong, or ``value`` cannot be an id (None, a bool, a list, …).

    Example:
        ``actguard.trust("booking", form["booking_reference"])``
    """
    checks.name(kind, "kind", "trust")
    checks.duration(ttl, "ttl", "trust")
    active = active_session()
    if active is None:
        raise _no_session("trust")
    if not active.mint(kind, value, ttl):
        raise ActGuardUsageError(f"trust: value cannot be an id: it is a {type(value).__name__}", field="value")
