"""What waits for the gateway: in memory, or in a spool when there is one.

An `Outbox` takes letters without waiting and gives them out in order. With a spool they are written to it at once, in
one transaction for all that came together. When the file cannot take them they wait in memory instead, and so does
everything after them until they are gone, so that the order stays.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from actguard.exceptions import MonitoringDegradedError
from actguard.gateway.letters import Letter, SpoolError, Waiting, choose
from actguard.gateway.worker import Worker

if TYPE_CHECKING:
    from actguard.gateway.spool import SpoolFile

P = ParamSpec("P")
T = TypeVar("T")

Degraded = Callable[[MonitoringDegradedError], None]


class Spool:
    """The spool as the hub sees it: every access in a thread of its own, every failure said once."""

    def __init__(self, file: SpoolFile, degraded: Degraded) -> None:
        self.file = file
        self._degraded = degraded
        self._worker = Worker("actguard-spool")
        self.usable = True
        """False once the file has proved unusable for good."""

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(*args)``, a method of `SpoolFile`. Raises: SpoolError, after it was warned about."""
        if self._worker.ended:
            raise SpoolError("io", "The spool is closed.")
        try:
            return await self._worker.run(work, *args, **kwargs)
        except SpoolError as error:
            if self.usable:
                self.usable = not error.lasting
                self._degraded(
                    MonitoringDegradedError(
                        subsystem="spool", operation="spool", failure_kind=error.kind, summary=error.summary
                    )
                )
            raise

    async def open(self) -> None:
        """Open the file and adopt what has no owner. Never raises."""
        try:
            await self.do(self.file.open)
        except SpoolError:
            self.usable = False
        else:
            await self.adopt()

    async def adopt(self) -> int:
        """Take over what has no living owner; how many letters it was. Never raises."""
        try:
            return await self.do(self.file.adopt) if self.usable else 0
        except SpoolError:
            return 0

    async def close(self) -> None:
        """Let go of what is left, for the next process. Closing twice does nothing."""
        self.usable = False
        if not self._worker.ended:
            try:
                await self._worker.run(self.file.close)
            finally:
                self._worker.end()


class Outbox:
    """Letters of one kind. ``room`` is how many may wait in memory; None: any number. Used on the hub only."""

    def __init__(self, kind: str, *, spool: Spool | None = None, room: int | None = None) -> None:
        self._kind = kind
        self._spool = spool
        self._room = room
        self._memory: dict[str, Letter] = {}
        self._unwritten: list[Letter] = []
        self._here_size = 0
        self._in_file = Waiting()
        self._gone: set[str] = set()
        self._writing: asyncio.Task[None] | None = None
        self.lost = 0
        """Letters that found no room."""

    @property
    def durable(self) -> bool:
        """True when everything here survives this process, at the latest when what is being written is in the file."""
        return self._file is not None and not self._memory

    @property
    def unsaved(self) -> int:
        """How many letters would be lost with this process."""
        return len(self._memory) + len(self._unwritten)

    @property
    def waiting(self) -> int:
        """How many letters are here."""
        return self.unsaved + (self._in_file.letters if self._file is not None else 0)

    @property
    def size(self) -> int:
        """How many bytes they are."""
        return self._here_size + (self._in_file.size if self._file is not None else 0)

    @property
    def _file(self) -> SpoolFile | None:
        return self._spool.file if self._spool is not None and self._spool.usable else None

    async def recount(self) -> None:
        """Look again what the file has, after letters were adopted."""
        if self._spool is not None and self._file is not None:
            with contextlib.suppress(SpoolError):
                self._in_file = await self._spool.do(self._spool.file.waiting, self._kind)

    def put(self, letter: Letter) -> bool:
        """Take ``letter``; False when there is no room. It is in the file once `written` returns."""
        if self._room is not None and self.unsaved >= self._room:
            self.lost += 1
            return False
        self._here_size += len(letter.body)
        if self._spool is None:
            self._memory[letter.key] = letter
        elif self._writing is not None:
            self._unwritten.append(letter)  # behind those that are being written, wherever they end up
        elif self._file is None or self._memory:
            self._memory[letter.key] = letter
        else:
            self._unwritten.append(letter)
            self._writing = asyncio.get_running_loop().create_task(self._write(self._spool))
        return True

    async def written(self) -> None:
        """Wait until everything put so far is in the file, or in memory for lack of one."""
        while self._writing is not None:
            await asyncio.shield(self._writing)

    async def _write(self, spool: Spool) -> None:
        try:
            while self._unwritten:
                batch = tuple(self._unwritten)
                try:
                    added = await spool.do(spool.file.put, self._kind, batch)
                except SpoolError:
                    # With what came meanwhile, so that the order stays.
                    self._memory.update((letter.key, letter) for letter in self._unwritten)
                    self._unwritten.clear()
                else:
                    self._in_file = _sum(self._in_file, added)
                    self._here_size -= sum(len(letter.body) for letter in batch)
                    del self._unwritten[: len(batch)]
        finally:
            self._writing = None

    async def first(self, count: int, size: int | None = None, skip: Collection[str] = ()) -> list[Letter]:
        """The oldest letters, at most ``count``, of at most ``size`` bytes together (but always one); none when the
        file cannot be read at the moment.
        """
        await self.written()
        if self._spool is not None and self._file is not None and self._in_file.letters:
            try:
                found = await self._spool.do(self._spool.file.first, self._kind, count, size, self._gone.union(skip))
            except SpoolError:
                if self._spool.usable:
                    return []
            else:
                if found:
                    return found
        return choose(self._memory.values(), count, size, skip)

    async def remove(self, letters: Sequence[Letter]) -> None:
        """They were delivered, or never will be."""
        in_file = []
        for letter in letters:
            if self._memory.pop(letter.key, None) is None:
                in_file.append(letter)
            else:
                self._here_size -= len(letter.body)
        if not in_file or self._spool is None:
            return
        size = sum(len(letter.body) for letter in in_file)
        self._in_file = Waiting(max(self._in_file.letters - len(in_file), 0), max(self._in_file.size - size, 0))
        # What cannot be deleted now is not given out again, and deleted together with the next ones.
        self._gone.update(letter.key for letter in in_file)
        if self._file is not None:
            gone = frozenset(self._gone)
            with contextlib.suppress(SpoolError):
                await self._spool.do(self._spool.file.remove, gone)
                self._gone -= gone


def _sum(one: Waiting, other: Waiting) -> Waiting:
    return Waiting(one.letters + other.letters, one.size + other.size)
