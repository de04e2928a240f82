"""``prove``: the ids that a tool returns are facts of the session, which `enforce` can ask for later."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from actguard.exceptions import ActGuardUsageError, GuardError, called, one_line
from actguard.guards.arguments import choice
from actguard.guards.guarding import Guard
from actguard.guards.protocol import CallScope, Quick, refused
from actguard.guards.session import Session, session_of
from actguard.guards.tools import Call, shown_name
from actguard.rules import checks

OnTooMany = Literal["block", "truncate"]
_SEVERAL = (list, tuple, set, frozenset)


class Prove(Guard[None]):
    """What `prove` returns."""

    name = "prove"
    direct = False

    def __init__(
        self, kind: str, extract: str | Callable[[Any], Any], ttl: float, max_items: int, on_too_many: OnTooMany
    ) -> None:
        super().__init__()
        self.kind = checks.name(kind, "kind", "prove")
        if not callable(extract) and (type(extract) is not str or not extract):
            raise ActGuardUsageError("prove: extract must be a key, an attribute name or a function", field="extract")
        self.extract = extract
        self.ttl = checks.duration(ttl, "ttl", "prove")
        self.max_items = checks.whole_number(max_items, "max_items", "prove")
        self.blocks = choice(on_too_many, ("block", "truncate"), "on_too_many", "prove") == "block"

    def enter(self, call: Call) -> CallScope:
        if call.tool is None or not call.tool.kind.is_generator:
            return self._begin(call.args, call.kwargs)
        proof = _ProofOfItems(self, session_of(self))
        call.watchers = (*call.watchers, proof.item)
        return proof

    def quick(self) -> Quick:
        return self._begin

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallScope:
        return _Proof(self, session_of(self))

    def found_in(self, result: Any) -> tuple[Sequence[Any], Any]:
        """The ids in ``result``, and what the caller gets: an iterator is read, so a new one takes its place."""
        extract = self.extract
        if type(result) is dict and isinstance(extract, str):  # most results; a seventh of the cost of what follows
            found = result.get(extract)
            return () if found is None else (found,), result
        enough = self.max_items + 1
        if isinstance(result, Iterator):
            items = list(itertools.islice(result, enough))
            return self.found_in(items)[0], itertools.chain(items, result)
        if not isinstance(extract, str):
            found = extract(result)
            if found is None:
                return (), result
            return (list(itertools.islice(found, enough)) if _is_several(found) else (found,)), result
        if result is None:
            return (), result
        members = (_member(item, extract) for item in (result if isinstance(result, _SEVERAL) else (result,)))
        return list(itertools.islice((each for each in members if each is not None), enough)), result

    def mint(self, session: Session, found: Sequence[Any], room: int) -> int:
        """Make facts of ``found``, of which there may be as many as there is ``room``; how many there are then."""
        if len(found) > room:
            if self.blocks:
                raise refused(self, self._too_many())
            found = found[:room]
        for each in found:
            session.mint(self.kind, each, self.ttl)
        return len(found)

    def _too_many(self) -> GuardError:
        return GuardError(
            "TOO_MANY_RESULTS",
            f"{called(shown_name(self.tool))} returned more than {self.max_items} ids of kind "
            f"{one_line(self.kind, 60)}.",
            details={"kind": self.kind, "max_items": self.max_items},
            fix_hint=f"Narrow the search down so that it gives at most {self.max_items} results.",
        )


class _Proof(CallScope):
    """The facts of one call."""

    __slots__ = ("_guard", "_session")

    def __init__(self, guard: Prove, session: Session) -> None:
        self._guard = guard
        self._session = session

    def returned(self, value: Any) -> Any:
        found, value = self._guard.found_in(value)
        if found:
            self._guard.mint(self._session, found, self._guard.max_items)
        return value


class _ProofOfItems(CallScope):
    """The facts of one generator."""

    __slots__ = ("_guard", "_minted", "_session")

    def __init__(self, guard: Prove, session: Session) -> None:
        self._guard = guard
        self._session = session
        self._minted = 0

    def item(self, item: Any) -> None:
        """The generator hands out ``item``: its ids hold from now on, so that its consumer can use them at once."""
        found, _ = self._guard.found_in([item])
        self._minted += self._guard.mint(self._session, found, self._guard.max_items - self._minted)


def _is_several(found: Any) -> bool:
    return isinstance(found, Iterable) and not isinstance(found, str | bytes | bytearray | Mapping)


def _member(item: Any, name: str) -> Any:
    """``item[name]``, else ``item.name``, else None."""
    if isinstance(item, Mapping):
        return item.get(name)
    found = getattr(item, name, None)
    if found is not None or isinstance(item, str | bytes | int | float | list | tuple):
        return None if callable(found) else found
    try:
        return item[name]  # a database row
    except Exception:  # noqa: BLE001  whatever an object of the tool raises, it has no such id
        return None


def prove(
    kind: str,
    extract: str | Callable[[Any], Any],
    ttl: float = 300,
    max_items: int = 200,
    on_too_many: OnTooMany = "block",
) -> Prove:
    """Vouch for the ids in what the tool returns: for ``ttl`` seconds they are facts of the active `session`.

    Items without the id, and values that cannot be one (None, a bool, a container), give no fact. A generator's items
    are proven as they are handed out.

    Args:
        kind: what they are ids of; `RequireFact` asks for the same kind.
        extract: the key or attribute that holds the id, in the result or in each item of a list, tuple, set or
            iterator; or a function that gets the whole result (of a generator, each item) and returns the ids.
        ttl: how long the facts hold, in seconds.
        max_items: the most ids of one call.
        on_too_many: "block" refuses a result with more and proves none of it, "truncate" proves the first of them.

    Raises:
        ActGuardUsageError: a setting is wrong (when decorating).
        GuardError: no session is active (code ``NO_SESSION``), or there are too many ids (``TOO_MANY_RESULTS``).

    Example::

        @actguard.prove("order", extract="order_id")
        def find_orders(customer: str) -> list[dict]: ...
    """
    return Prove(kind, extract, ttl, max_items, on_too_many)
