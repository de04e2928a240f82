"""The spool file: can it be used, is it whole, and what waits in it. Nothing in it is changed or taken over."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import quote

from actguard import clock
from actguard.doctor.configuration import Configuration
from actguard.doctor.deadline import Deadline
from actguard.doctor.findings import Finding, counted, ok, problem, warning
from actguard.gateway.spool import SCHEMA_VERSION, addressee
from actguard.settings import Settings

PATIENCE_S = 1.0
"""How long a lock of another process is waited for."""
OLD_S = 3600.0
"""What waits longer than this is not being delivered."""
NEARLY_FULL = 0.8
_STEPS_BETWEEN_LOOKS = 10_000
"""SQLite's own steps between two looks at the clock."""

_START_AGAIN = (
    "Move the file away (with its -wal and -shm): the next client starts a new one. What can be read of the old one, "
    "'sqlite3 FILE .recover' shows."
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one gateway."""

    gateway: str
    """Its address, and a mark of the account: see `addressee`."""
    kind: str
    letters: int
    oldest: float
    """Seconds since 1970."""


def check_spool(configuration: Configuration, deadline: Deadline) -> list[Finding]:
    """What there is to know about the spool."""
    settings = configuration.settings
    if settings is None:
        return []
    if settings.spool is None:
        if not settings.has_gateway:
            return [ok("spool", "none, and none is needed without a gateway")]
        return [ok("spool", "none: what cannot be delivered waits in memory, and is lost with its process")]
    path = os.path.abspath(os.path.expanduser(settings.spool))
    if not os.path.exists(path):
        return [_not_there(path)]
    if not os.path.isfile(path):
        return [problem("file", f"{path} is no file", "Set spool to the path of a file.")]
    for needed in (path, os.path.dirname(path)):
        if not os.access(needed, os.R_OK | os.W_OK):
            fix = "Give the user that runs your program the right to read and write it, and its directory."
            return [problem("file", f"{needed} cannot be read and written by this user", fix)]
    try:
        with _opened(path, deadline) as file:
            return _looked_into(file, path, settings)
    except sqlite3.Error as error:
        return [_unreadable(path, error)]


def _not_there(path: str) -> Finding:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return problem("file", f"its directory {folder} does not exist", f"Make it: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        fix = "Give the user that runs your program the right to write there, or set spool to another path."
        return problem("file", f"its directory {folder} cannot be written by this user", fix)
    return ok("file", f"{path} is not there yet: the first client makes it")


@contextmanager
def _opened(path: str, deadline: Deadline) -> Iterator[sqlite3.Connection]:
    """The file, for reading. Opened for writing all the same: a reader of a WAL file that may not write leaves files
    behind.
    """
    connection = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=deadline.left(PATIENCE_S))
    with closing(connection) as file:
        file.execute("PRAGMA query_only = 1")
        file.set_progress_handler(lambda: int(deadline.passed), _STEPS_BETWEEN_LOOKS)
        yield file


def _looked_into(file: sqlite3.Connection, path: str, settings: Settings) -> list[Finding]:
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        fix = "Update ActGuard here, or use another file."
        return [problem("file", f"{path} was written by a newer version of ActGuard", fix)]
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "letters" not in tables:
        if tables - {"sqlite_sequence"}:
            return [problem("file", f"{path} is a database of something else", "Set spool to a path of its own.")]
        return [ok("file", f"{path} is empty")]
    damage = [text for (text,) in file.execute("PRAGMA quick_check(1)") if text != "ok"]
    if damage:
        return [problem("file", f"{path} is damaged ({damage[0]})", _START_AGAIN)]
    return [_room(file, path, settings), *_backlog(file, settings)]


def _room(file: sqlite3.Connection, path: str, settings: Settings) -> Finding:
    (pages,), (free,), (size,) = (
        file.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    used, most = (pages - free) * size, settings.spool_max_bytes
    text = f"{path} is whole; {_amount(used)} of {_amount(most)} used"
    if used > most * NEARLY_FULL:
        fix = "Deliver what waits (see below), or raise spool_max_bytes: a full spool keeps new events in memory."
        return warning("file", text, fix)
    return ok("file", text)


def _backlog(file: sqlite3.Connection, settings: Settings) -> list[Finding]:
    rows = file.execute(
        "SELECT gateway, kind, COUNT(*), MIN(put_at) FROM letters GROUP BY gateway, kind ORDER BY gateway, kind DESC"
    )
    by_gateway: dict[str, list[Backlog]] = {}
    for row in rows:
        by_gateway.setdefault(row[0], []).append(Backlog(*row))
    if settings.gateway_url is None or settings.api_key is None:  # the file alone is asked about
        found = [_judged(there, f" for {_address(gateway)}") for gateway, there in by_gateway.items()]
        return found or [_judged([])]
    here = addressee(settings.gateway_url, settings.api_key.get_secret_value())
    findings = [_judged(by_gateway.pop(here, []))]
    for gateway, there in by_gateway.items():
        url = _address(gateway)
        whose = "another key" if url == settings.gateway_url else f"another gateway, {url}"
        fix = "Only a client with that gateway_url and api_key delivers it: start one, or delete what nobody wants."
        findings.append(warning("waiting", f"{_what(there)} for {whose}", fix))
    return findings


def _address(gateway: str) -> str:
    """Its URL; behind it stands a mark of the account."""
    return gateway.partition(" ")[0]


def _judged(backlogs: list[Backlog], whose: str = "") -> Finding:
    if not backlogs:
        return ok("waiting", "nothing: everything was delivered")
    age = max(clock.epoch() - min(each.oldest for each in backlogs), 0.0)
    text = f"{_what(backlogs)}{whose}, the oldest for {_age(age)}"
    if age < OLD_S:
        return ok("waiting", f"{text}; the clients that use this spool deliver it")
    return warning(
        "waiting",
        text,
        "Mend what the gateway findings say, then start a client with this spool: it delivers what is left over. "
        "To do just that: python -c 'import actguard; actguard.Client.from_env().close()'",
    )


def _what(backlogs: list[Backlog]) -> str:
    return " and ".join(counted(each.letters, each.kind) for each in backlogs)


def _unreadable(path: str, error: sqlite3.Error) -> Finding:
    text = str(error)
    if "interrupted" in text:
        return warning("file", f"{path} is too large to be checked in the time given", "Give more time: --timeout 120")
    if "locked" in text or "busy" in text:
        fix = "Find out which one (on Linux: fuser FILE). Clients themselves hold it for moments only."
        return problem("file", f"{path} is locked by another program", fix)
    if isinstance(error, sqlite3.OperationalError):
        return problem("file", f"{path} cannot be opened ({text})", "Check its disk, and the rights on its directory.")
    return problem("file", f"{path} is damaged, or no spool at all ({text})", _START_AGAIN)


def _amount(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 1024:,.0f} KiB"


def _age(seconds: float) -> str:
    for length, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(seconds), "second")
