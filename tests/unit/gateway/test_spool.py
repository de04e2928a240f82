"""The spool file: what is put in comes out once, whoever dies."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from actguard.gateway.letters import Letter, SpoolError, Waiting
from actguard.gateway.spool import SpoolFile

HERE = "http://127.0.0.1:1"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


@pytest.fixture
def opened(path: str) -> Iterator[Any]:
    files: list[SpoolFile] = []

    def open_one(gateway: str = HERE, max_bytes: int = 2**24, at: str = path) -> SpoolFile:
        file = SpoolFile(at, gateway=gateway, max_bytes=max_bytes, patience_s=5)
        file.open()
        files.append(file)
        return file

    yield open_one
    for file in files:
        file.close()


def letters(*keys: str, size: int = 2) -> list[Letter]:
    return [Letter(key, b"x" * size) for key in keys]


def keys(file: SpoolFile, kind: str = "event", count: int = 100, size: int | None = None) -> list[str]:
    return [letter.key for letter in file.first(kind, count, size, ())]


def signs_of_life(path: str) -> list[str]:
    return [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".alive")]


def test_letters_come_out_in_order_by_count_and_size(opened: Any) -> None:
    file = opened()
    assert file.put("event", letters("a", "b", "c", size=10)) == Waiting(3, 30)
    assert keys(file) == ["a", "b", "c"]
    assert keys(file, count=2) == ["a", "b"]
    assert keys(file, size=25) == ["a", "b"]
    assert keys(file, size=1) == ["a"]  # one always comes, or nothing ever would
    assert [letter.key for letter in file.first("event", 1, None, {"a"})] == ["b"]
    file.remove({"b"})
    assert keys(file) == ["a", "c"]
    assert file.waiting("event") == Waiting(2, 20)


def test_kinds_do_not_mix_and_a_letter_is_there_once(opened: Any) -> None:
    file = opened()
    file.put("event", letters("a", "b"))
    assert file.put("event", letters("b", "c")) == Waiting(1, 2)
    file.put("settlement", letters("s"))
    assert (keys(file), keys(file, "settlement")) == (["a", "b", "c"], ["s"])


def test_each_client_sees_its_own_letters(opened: Any) -> None:
    one, two = opened(), opened()
    one.put("event", letters("a"))
    two.put("event", letters("b"))
    assert (keys(one), keys(two)) == (["a"], ["b"])
    assert one.adopt() == 0  # the other one lives
    assert keys(one) == ["a"]


def test_what_a_client_leaves_behind_is_adopted_in_order(opened: Any, path: str) -> None:
    one, two = opened(), opened()
    one.put("event", letters("a", "b"))
    two.put("event", letters("c"))
    one.close()
    assert two.adopt() == 2
    assert keys(two) == ["a", "b", "c"]
    assert len(signs_of_life(path)) == 1


def test_letters_for_another_gateway_are_left_alone(opened: Any) -> None:
    one, two = opened(), opened(gateway="http://127.0.0.1:2")
    one.put("event", letters("a"))
    one.close()
    assert two.adopt() == 0
    assert opened().adopt() == 1


def dying(path: str) -> None:
    """A process that puts two letters and is killed where it stands."""
    script = (
        "import os, signal, sys\n"
        "from actguard.gateway.letters import Letter\n"
        "from actguard.gateway.spool import SpoolFile\n"
        f"file = SpoolFile({path!r}, gateway={HERE!r}, max_bytes=2**24, patience_s=5)\n"
        "file.open()\n"
        "file.put('event', [Letter('x', b'1')])\n"
        "file.put('settlement', [Letter('y', b'2')])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9


def test_what_a_killed_process_left_is_adopted_at_once(opened: Any, path: str) -> None:
    dying(path)
    assert len(signs_of_life(path)) == 1
    file = opened()
    assert file.adopt() == 2
    assert (keys(file), keys(file, "settlement")) == (["x"], ["y"])
    assert len(signs_of_life(path)) == 1  # only our own


def test_two_who_look_at_once_do_not_adopt_the_same_letter(opened: Any, path: str) -> None:
    dying(path)
    files = [opened() for _ in range(6)]
    start = threading.Barrier(len(files))

    def adopt(file: SpoolFile) -> int:
        start.wait()
        return file.adopt()

    with ThreadPoolExecutor(len(files)) as pool:
        assert sum(pool.map(adopt, files)) == 2
    assert sorted(key for file in files for key in (*keys(file), *keys(file, "settlement"))) == ["x", "y"]


def test_a_forked_child_neither_uses_nor_disturbs_its_parents_file(opened: Any) -> None:
    file = opened()
    file.put("event", letters("a"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            other = SpoolFile(file._path, gateway=HERE, max_bytes=2**24, patience_s=5)
            other.open()
            code = 0 if other.adopt() == 0 else 2  # the parent is seen to live
            other.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    file.put("event", letters("b"))
    assert keys(file) == ["a", "b"]


def in_a_child(work: Callable[[], bool]) -> int:
    """Fork; the child's exit code: 0 if ``work`` is true there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_fork_waits_for_the_access_that_is_under_way(opened: Any, path: str) -> None:
    file = opened()
    begun, forking = threading.Event(), threading.Event()
    os.register_at_fork(before=forking.set)  # these run last first: before the file's own

    def put() -> None:
        with file._transaction() as connection:
            connection.execute("DELETE FROM letters")
            begun.set()
            forking.wait(20)

    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(put)
        assert begun.wait(20)

        def write() -> bool:
            other = SpoolFile(path, gateway=HERE, max_bytes=2**24, patience_s=5)
            other.open()
            other.put("event", letters("child"))
            return True

        assert in_a_child(write) == 0  # it has not inherited a lock that nobody lets go of
        putting.result()
    file.put("event", letters("parent"))
    assert (file.adopt(), keys(file)) == (1, ["child", "parent"])


def test_what_a_forked_child_writes_is_there_after_its_parent_has_closed(opened: Any, path: str) -> None:
    file = opened()
    file.put("event", letters("parent"))
    here, there = os.pipe()

    def write() -> bool:
        other = SpoolFile(path, gateway=HERE, max_bytes=2**24, patience_s=5)
        other.open()
        os.write(there, b"open")
        os.read(closed, 1)
        other.put("event", letters("child"))
        return True  # and dies, without closing

    closed, closing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if write() else 2
        finally:
            os._exit(code)
    os.read(here, 4)
    file.close()
    os.write(closing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for each in (here, there, closed, closing):
        os.close(each)
    heir = opened()
    assert (heir.adopt(), keys(heir)) == (2, ["parent", "child"])


def error_of(work: Any) -> SpoolError:
    with pytest.raises(SpoolError) as caught:
        work()
    assert caught.value.__cause__ is None
    return caught.value


def test_a_file_that_is_something_else_is_corrupt(opened: Any, path: str) -> None:
    Path(path).write_bytes(b"not a database, but a letter to my aunt" * 100)
    error = error_of(opened)
    assert (error.kind, error.lasting) == ("corrupt", True)
    assert Path(path).read_bytes().startswith(b"not a database")  # it is not ours to overwrite


def test_a_file_that_is_damaged_later_is_corrupt(opened: Any, path: str) -> None:
    file = opened()
    file.put("event", letters(*map(str, range(200)), size=1000))
    file.close()
    with open(path, "r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * 100_000)
    assert error_of(lambda: opened().adopt()).kind == "corrupt"


def test_a_file_of_a_newer_version_is_not_touched(opened: Any, path: str) -> None:
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    error = error_of(opened)
    assert (error.kind, error.lasting) == ("version", True)


def test_a_full_file_takes_no_more_until_there_is_room(opened: Any) -> None:
    file = opened(max_bytes=2**17)
    taken = 0
    error = None
    while error is None:
        try:
            file.put("event", letters(f"k{taken}", size=4000))
            taken += 1
        except SpoolError as full:
            error = full
    assert (error.kind, error.lasting) == ("full", False)
    assert len(keys(file)) == taken > 10
    file.remove([f"k{at}" for at in range(10)])
    file.put("event", letters("again", size=4000))
    assert keys(file)[-1] == "again"


def test_a_folder_that_is_not_there_is_said(opened: Any, tmp_path: Path) -> None:
    error = error_of(lambda: opened(at=str(tmp_path / "nowhere" / "spool.db")))
    assert (error.kind, error.lasting) == ("io", False)


def test_a_file_that_another_program_locks_is_said(opened: Any, path: str) -> None:
    file = SpoolFile(path, gateway=HERE, max_bytes=2**24, patience_s=0.01)
    file.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert error_of(lambda: file.put("event", letters("a"))).kind == "locked"
    other.execute("ROLLBACK")
    other.close()
    file.put("event", letters("a"))
    assert keys(file) == ["a"]
    file.close()


def test_many_writers_lose_nothing(opened: Any, path: str) -> None:
    """Four processes and four clients of this one, all at once."""
    script = (
        "import sys\n"
        "from actguard.gateway.letters import Letter\n"
        "from actguard.gateway.spool import SpoolFile\n"
        f"file = SpoolFile({path!r}, gateway={HERE!r}, max_bytes=2**24, patience_s=20)\n"
        "file.open()\n"
        "for n in range(50): file.put('event', [Letter(f'{sys.argv[1]}-{n}', b'1')])\n"
        "file.close()\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", script, f"p{n}"]) for n in range(4)]

    def write(name: str) -> None:
        file = opened()
        for number in range(50):
            file.put("event", letters(f"{name}-{number}"))
        file.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert [other.wait(60) for other in others] == [0] * 4
    heir = opened()
    heir.adopt()
    found = keys(heir, count=1000)
    assert len(found) == len(set(found)) == 400
    for name in ("a", "p0"):  # each one's own order is kept
        own = [key for key in found if key.startswith(f"{name}-")]
        assert own == [f"{name}-{number}" for number in range(50)]


def test_clients_that_come_and_go_at_once_do_not_take_each_other_for_dead(path: str) -> None:
    """Whoever opens looks for signs of the dead, and may find that of another who is just about to live."""
    script = (
        "import sys\n"
        "from actguard.gateway.letters import Letter\n"
        "from actguard.gateway.spool import SpoolFile\n"
        "for n in range(60):\n"
        f"    file = SpoolFile({path!r}, gateway={HERE!r}, max_bytes=2**24, patience_s=20)\n"
        "    file.open()\n"
        "    file.put('event', [Letter(f'{sys.argv[1]}-{n}', b'1')])\n"
        "    file.close()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, f"p{n}"], stderr=subprocess.PIPE, text=True) for n in range(4)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == [""] * 4


def test_closing_twice_is_harmless(opened: Any) -> None:
    file = opened()
    file.close()
    file.close()
    assert error_of(lambda: file.put("event", letters("a"))).kind == "io"
