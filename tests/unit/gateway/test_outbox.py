"""The outbox: order, room, and what happens when the file does not want to."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actguard.exceptions import MonitoringDegradedError
from actguard.gateway.letters import Letter, SpoolError
from actguard.gateway.outbox import Outbox, Spool
from actguard.gateway.spool import SpoolFile


def letter(key: str, size: int = 2) -> Letter:
    return Letter(key, b"x" * size)


async def keys(outbox: Outbox, count: int = 100) -> list[str]:
    return [each.key for each in await outbox.first(count)]


class Spools:
    """Spools on one file, and what they warned about."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warned: list[MonitoringDegradedError] = []
        self._open: list[Spool] = []

    async def open(self, max_bytes: int = 2**24) -> Spool:
        file = SpoolFile(str(self.path), gateway="g", max_bytes=max_bytes, patience_s=0.05)
        spool = Spool(file, self.warned.append)
        await spool.open()
        self._open.append(spool)
        return spool

    async def close(self) -> None:
        for spool in self._open:
            await spool.close()

    @property
    def kinds(self) -> list[str]:
        return [each.failure_kind for each in self.warned]


@pytest.fixture
async def spools(tmp_path: Path) -> AsyncIterator[Spools]:
    spools = Spools(tmp_path / "spool.db")
    yield spools
    await spools.close()


async def test_memory_keeps_order_and_knows_its_room() -> None:
    outbox = Outbox("event", room=2)
    assert [outbox.put(letter(key)) for key in "abc"] == [True, True, False]
    assert (outbox.waiting, outbox.size, outbox.lost, outbox.durable) == (2, 4, 1, False)
    assert await keys(outbox) == ["a", "b"]
    await outbox.remove([letter("a")])
    assert (outbox.waiting, outbox.size) == (1, 2)
    assert outbox.put(letter("d"))
    assert await keys(outbox) == ["b", "d"]
    assert [each.key for each in await outbox.first(9, skip={"b"})] == ["d"]


async def test_with_a_spool_there_is_room_and_it_lasts(spools: Spools) -> None:
    outbox = Outbox("event", spool=await spools.open(), room=2)
    for key in "abcd":
        outbox.put(letter(key))
        await outbox.written()
    assert (outbox.waiting, outbox.size, outbox.lost, outbox.durable) == (4, 8, 0, True)
    await outbox.remove([letter("a"), letter("b")])
    assert await keys(outbox) == ["c", "d"]
    await spools.close()
    heir = Outbox("event", spool=await spools.open())
    await heir.recount()
    assert heir.waiting == 2
    assert await keys(heir) == ["c", "d"]


async def test_what_comes_together_is_written_together(spools: Spools) -> None:
    spool = await spools.open()
    outbox, writes = Outbox("event", spool=spool), []
    put = spool.file.put

    def counted(kind: str, letters: Any) -> Any:
        writes.append(len(letters))
        return put(kind, letters)

    spool.file.put = counted  # type: ignore[method-assign]
    for number in range(100):
        outbox.put(letter(str(number)))
    await outbox.written()
    assert sum(writes) == 100
    assert len(writes) <= 2
    assert await keys(outbox, 1000) == [str(number) for number in range(100)]


async def test_a_locked_file_sends_letters_to_memory_in_order(spools: Spools) -> None:
    outbox = Outbox("event", spool=await spools.open())
    outbox.put(letter("a"))
    await outbox.written()
    other = sqlite3.connect(spools.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for key in "bc":
        outbox.put(letter(key))
        await outbox.written()
    other.execute("ROLLBACK")
    other.close()
    outbox.put(letter("d"))  # behind those that are in memory, so that the order stays
    assert spools.kinds == ["locked"]
    assert not outbox.durable
    sent = []
    while batch := await outbox.first(2):
        sent.extend(each.key for each in batch)
        await outbox.remove(batch)
    assert sent == ["a", "b", "c", "d"]
    outbox.put(letter("e"))
    await outbox.written()
    assert outbox.durable
    assert (outbox.waiting, outbox.size) == (1, 2)


async def test_what_cannot_be_deleted_is_not_given_out_twice(spools: Spools) -> None:
    outbox = Outbox("event", spool=await spools.open())
    for key in "abc":
        outbox.put(letter(key))
    await outbox.written()
    other = sqlite3.connect(spools.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await outbox.remove([letter("a")])
    assert await keys(outbox) == ["b", "c"]
    other.execute("ROLLBACK")
    other.close()
    await outbox.remove([letter("b")])
    heir = await spools.open()
    await spools._open[0].close()
    assert await heir.adopt() == 1


@pytest.mark.parametrize("fault", ["corrupt", "full", "folder"])
async def test_a_spool_that_cannot_be_used_is_said_once_and_memory_takes_over(
    fault: str, spools: Spools, tmp_path: Path
) -> None:
    if fault == "corrupt":
        spools.path.write_bytes(b"no database" * 1000)
    if fault == "folder":
        spools.path = tmp_path / "nowhere" / "spool.db"
    outbox = Outbox("event", spool=await spools.open(max_bytes=2**16))
    for number in range(100):
        outbox.put(letter(str(number), 4000))
    await outbox.written()
    assert spools.kinds == [{"folder": "io"}.get(fault, fault)]
    assert not outbox.durable
    seen = []
    while batch := await outbox.first(7):
        seen.extend(each.key for each in batch)
        await outbox.remove(batch)
    assert seen == [str(number) for number in range(100)]
    assert (outbox.waiting, outbox.size) == (0, 0)


async def test_what_was_put_before_the_file_is_open_is_written_after_it(tmp_path: Path) -> None:
    file = SpoolFile(str(tmp_path / "s.db"), gateway="g", max_bytes=2**20, patience_s=1)
    spool = Spool(file, pytest.fail)
    opening = asyncio.create_task(spool.open())
    await asyncio.sleep(0)
    outbox = Outbox("event", spool=spool)
    outbox.put(letter("a"))
    await opening
    await outbox.written()
    assert outbox.durable
    assert await keys(outbox) == ["a"]
    await spool.close()


async def test_order_is_kept_when_the_file_turns_out_to_be_unusable(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"no database" * 1000)
    spool = Spool(SpoolFile(str(path), gateway="g", max_bytes=2**20, patience_s=1), lambda _: None)
    opening = asyncio.create_task(spool.open())
    await asyncio.sleep(0)
    outbox = Outbox("event", spool=spool)
    for number in range(50):
        outbox.put(letter(str(number)))
        await asyncio.sleep(0)
    await opening
    for number in range(50, 60):
        outbox.put(letter(str(number)))
    assert await keys(outbox) == [str(number) for number in range(60)]
    await spool.close()


async def test_an_error_is_raised_to_the_one_who_asked(spools: Spools) -> None:
    spool = await spools.open()
    await spool.close()
    with pytest.raises(SpoolError):
        await asyncio.wait_for(Spool(spool.file, lambda _: None).do(spool.file.adopt), 5)
