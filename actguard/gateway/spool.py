"""The spool: a SQLite file for what could not be delivered yet, shared by any number of processes.

Every letter (an event or a settlement) has an owner, the client that put it there and delivers it. A client shows
that it lives by holding a lock on a small file beside the spool, which the operating system takes away when the
process dies, however it dies. Letters of an owner that is dead, or that has closed and let them go, are adopted by
whoever looks next. So nothing is delivered by two processes at once, and nothing waits for a lease to run out.

A letter that was committed survives the death of its process; a power cut may take the last moments.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from urllib.parse import quote
from uuid import uuid4

from actguard.gateway.letters import Letter, SpoolError, Waiting, choose

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS letters (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    gateway TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL,
    owner TEXT,
    put_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS letters_by_owner ON letters (owner, kind, seq);
"""
FORK_PATIENCE_S = 5.0
"""How long a fork waits for an access to the spool that is under way."""
ALIVE = ".alive"
"""How the file ends whose lock says that an owner lives."""


def addressee(gateway_url: str, api_key: str) -> str:
    """Whom letters are for: a gateway, and the account that a key stands for.

    They go out with the key of whoever delivers them, so those of another account are left alone. The key is not in
    the file, and cannot be found by this part of its hash.
    """
    return f"{gateway_url} {sha256(api_key.encode()).hexdigest()[:16]}"


class SpoolFile:
    """One client's view of a spool: the letters for ``gateway``, see `addressee`. Blocks; used by one thread at a time,
    and not by a forked child of the process that opened it: it neither uses, closes nor frees it.

    While the process forks, the file is closed. SQLite notes the locks that a process has on a file, and the child
    inherits the notes but not the locks: it would wait for ever for its parent's, or write unseen by others.

    Raises:
        SpoolError: from every method.
    """

    def __init__(self, path: str, *, gateway: str, max_bytes: int, patience_s: float) -> None:
        self._path = os.path.abspath(os.path.expanduser(path))
        self._gateway = gateway
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._owner = ""
        self._file: sqlite3.Connection | None = None
        self._alive: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._held_for_fork = False
        _files.add(self)

    def open(self) -> None:
        """Open the file, which is made if need be, and become an owner."""
        with self._lock, _explained(self._path):
            self._file = self._connected()
            self._show_life()
            for path in self._other_signs_of_life():
                _bury(path)

    def put(self, kind: str, letters: Sequence[Letter]) -> Waiting:
        """Write ``letters``, all or none; those that are there already are passed over. Returns what was added."""
        now = time.time()
        added = Waiting()
        with self._transaction() as file:
            for key, body in letters:
                row = (self._gateway, kind, key, body, self._owner, now)
                done = file.execute(
                    "INSERT OR IGNORE INTO letters (gateway, kind, key, body, owner, put_at) VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                )
                if done.rowcount == 1:
                    added = Waiting(added.letters + 1, added.size + len(body))
        return added

    def first(self, kind: str, count: int, size: int | None, skip: Collection[str]) -> list[Letter]:
        """Own letters, oldest first: at most ``count``, of at most ``size`` bytes together (but always one)."""
        with self._lock, _explained(self._path):
            rows = self._open_file.execute(
                "SELECT key, body FROM letters WHERE owner = ? AND kind = ? ORDER BY seq", (self._owner, kind)
            )
            with contextlib.closing(rows):
                return choose((Letter(key, body) for key, body in rows), count, size, skip)

    def remove(self, keys: Collection[str]) -> None:
        """Forget letters: they were delivered, or never will be."""
        with self._transaction() as file:
            file.executemany("DELETE FROM letters WHERE key = ?", [(key,) for key in keys])

    def adopt(self) -> int:
        """Take over the letters for this gateway that have no living owner; how many they were."""
        with self._transaction() as file:
            owners = file.execute(
                "SELECT DISTINCT owner FROM letters WHERE gateway = ? AND owner IS NOT NULL AND owner <> ?",
                (self._gateway, self._owner),
            ).fetchall()
            for (owner,) in owners:
                if _bury(f"{self._path}-{owner}{ALIVE}"):
                    file.execute("UPDATE letters SET owner = NULL WHERE owner = ?", (owner,))
            adopted = file.execute(
                "UPDATE letters SET owner = ? WHERE gateway = ? AND owner IS NULL", (self._owner, self._gateway)
            )
            return adopted.rowcount

    def waiting(self, kind: str) -> Waiting:
        """How much of one kind is there for this client to deliver."""
        with self._lock, _explained(self._path):
            letters, size = self._open_file.execute(
                "SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0) FROM letters WHERE owner = ? AND kind = ?",
                (self._owner, kind),
            ).fetchone()
        return Waiting(letters, size)

    def close(self) -> None:
        """Let go of what is still there, for others to adopt, and close. Never raises."""
        with self._lock:
            with contextlib.suppress(SpoolError), self._transaction() as file:
                file.execute("UPDATE letters SET owner = NULL WHERE owner = ?", (self._owner,))
            for connection in (self._file, self._alive):
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.close()
            if self._alive is not None:
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._path}-{self._owner}{ALIVE}")
            self._file = self._alive = None

    def before_fork(self) -> None:
        """Close the file, after the access that is under way; the next access opens it again."""
        self._held_for_fork = self._lock.acquire(timeout=FORK_PATIENCE_S)
        if self._held_for_fork and self._file is not None:
            with contextlib.suppress(sqlite3.Error):
                self._file.close()
            self._file = None

    def after_fork(self) -> None:
        """In the parent: go on."""
        if self._held_for_fork:
            self._held_for_fork = False
            self._lock.release()

    @property
    def _open_file(self) -> sqlite3.Connection:
        if self._file is None:
            if self._alive is None:
                raise SpoolError("io", f"The spool {self._path} is not open.")
            with _explained(self._path):
                self._file = self._connected()
        return self._file

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _explained(self._path):
            file = self._open_file
            file.execute("BEGIN IMMEDIATE")
            try:
                yield file
                file.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk rolls back by itself
                    file.execute("ROLLBACK")
                raise

    def _connected(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=self._patience_s, isolation_level=None, check_same_thread=False)
        try:
            # Changing to WAL does not wait for others who do the same at the same moment.
            _insist(lambda: file.execute("PRAGMA journal_mode = WAL").fetchone(), self._patience_s)
            file.execute("PRAGMA synchronous = NORMAL")
            (page_size,) = file.execute("PRAGMA page_size").fetchone()
            file.execute(f"PRAGMA max_page_count = {self._max_bytes // page_size}")
            (version,) = file.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise SpoolError(
                    "version", f"The spool {self._path} was written by a newer version: update, or use another file."
                )
            if version < SCHEMA_VERSION:
                file.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        except BaseException:
            file.close()
            raise
        return file

    def _show_life(self) -> None:
        """Become a new owner: hold the lock of a file with its name."""
        while True:
            self._owner = uuid4().hex
            path = f"{self._path}-{self._owner}{ALIVE}"
            alive = sqlite3.connect(path, timeout=self._patience_s, isolation_level=None, check_same_thread=False)
            try:
                alive.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error:
                alive.close()
                if os.path.exists(path):
                    raise
            else:
                if os.path.exists(path):
                    self._alive = alive
                    return
                alive.close()
            # Somebody found the file before it was locked, and took it for that of a dead owner: once more.

    def _other_signs_of_life(self) -> list[str]:
        folder, name = os.path.split(self._path)
        own = f"{name}-{self._owner}{ALIVE}"
        with contextlib.suppress(OSError):
            found = os.listdir(folder)
            return [os.path.join(folder, each) for each in found if _is_sign(each, name) and each != own]
        return []


_files: weakref.WeakSet[SpoolFile] = weakref.WeakSet()


def _before_fork() -> None:
    for file in list(_files):
        file.before_fork()


def _after_fork_in_parent() -> None:
    for file in list(_files):
        file.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_files.clear)


def _is_sign(file: str, spool: str) -> bool:
    return file.startswith(f"{spool}-") and file.endswith(ALIVE)


def _bury(path: str) -> bool:
    """True when the owner whose file this is does not live (any more); the file is removed then."""
    try:
        file = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=0, isolation_level=None)
    except sqlite3.Error:
        return not os.path.exists(path)
    try:
        file.execute("BEGIN EXCLUSIVE")
        with contextlib.suppress(OSError):
            os.unlink(path)
    except sqlite3.Error:
        return not os.path.exists(path)
    finally:
        file.close()
    return True


def _insist(work: Callable[[], object], patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while True:
        try:
            work()
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


def _is_locked(error: sqlite3.Error) -> bool:
    return "locked" in str(error) or "busy" in str(error)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """SQLite's errors as `SpoolError`, with what to do about them."""
    try:
        yield
    except sqlite3.Error as error:
        kind, advice = _meaning(error)
        raise SpoolError(kind, f"The spool {path} cannot be used ({error}). {advice}") from None


def _meaning(error: sqlite3.Error) -> tuple[str, str]:
    text = str(error)
    if "full" in text:
        return "full", "Free some disk space, or raise spool_max_bytes; until then it is kept in memory."
    if _is_locked(error):
        return "locked", "Another program holds its lock; meanwhile it is kept in memory."
    if not isinstance(error, sqlite3.OperationalError):
        return "corrupt", "Move the file away to start a new one; until then everything is kept in memory."
    return "io", "Check that the file and its directory can be written; until then it is kept in memory."
