"""How old the price list is. It comes with the package genai-prices, whose release nothing on this machine dates; two
facts bracket its age: the day of the newest price in it, and the day it was installed.
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from importlib import metadata

from actguard import clock
from actguard.doctor.findings import Finding, counted, ok, problem, warning
from actguard.money.catalog import LOADER

PACKAGE = "genai-prices"
OLD_DAYS = 90
UPDATE = f"Update it: pip install --upgrade {PACKAGE}. Or give your own: Client(prices={{…}})."


def check_prices() -> list[Finding]:
    """Whether calls can be priced, and with how old a list."""
    try:
        source, version = LOADER.load(), metadata.version(PACKAGE)
    except ImportError as error:
        return [problem("price list", f"{PACKAGE} cannot be imported ({error})", f"Install it: pip install {PACKAGE}")]
    assert source is not None, "only the thread that loads it gets none"
    today = datetime.fromtimestamp(clock.epoch(), UTC).date()
    return [_judged(version, source.newest_change(today), _installed(), today)]


def _judged(version: str, newest: date | None, installed: date | None, today: date) -> Finding:
    text = f"{PACKAGE} {version}"
    if newest is not None:
        text += f", with price changes up to {newest} ({counted((today - newest).days, 'day')} ago)"
    if installed is not None:
        text += f", installed {counted((today - installed).days, 'day')} ago"
    ages = [(today - each).days for each in (newest, installed) if each is not None]
    if ages and max(ages) > OLD_DAYS:
        return warning("price list", f"{text}: newer prices and models may be missing", UPDATE)
    return ok("price list", text)


def _installed() -> date | None:
    """When the list came to this machine, where the file system knows."""
    data = next((file for file in metadata.files(PACKAGE) or () if file.name == "data.py"), None)
    if data is None:
        return None
    try:
        moment = os.stat(os.fspath(data.locate())).st_mtime
    except OSError:
        return None
    # Reproducible images set the times of all files to a day long ago: that says nothing.
    return datetime.fromtimestamp(moment, UTC).date() if clock.epoch() - moment < 5 * 365 * 86_400 else None
