"""Keeps the proxies of the environment out of the way of a server on this machine.

Where HTTP_PROXY is set, every SDK sends its requests there, those to 127.0.0.1 too, unless NO_PROXY names the address.
Not all SDKs can be told otherwise when their client is made, and users make clients of their own: so the environment
says it, but only while a provider runs, and only where there is a proxy.
"""

from __future__ import annotations

import os
import threading
from urllib.request import getproxies_environment, proxy_bypass

ADDRESS = "127.0.0.1"
VARIABLE = "no_proxy"
"""The spelling that wins where both are set."""

_lock = threading.Lock()
_bypasses: list[Bypass] = []


class Bypass:
    """While it is open, requests to `ADDRESS` go there directly. The last one to close puts the variable back."""

    def __init__(self) -> None:
        with _lock:
            self._before: str | None = None
            self._set = _set_for(getproxies_environment())
            if self._set is not None:
                self._before = os.environ.get(VARIABLE)
                os.environ[VARIABLE] = self._set
            elif _bypasses:  # it is in place already, and whoever closes last puts it back
                self._set, self._before = _bypasses[0]._set, _bypasses[0]._before
            _bypasses.append(self)

    def close(self) -> None:
        """Closing twice does nothing."""
        with _lock:
            if self not in _bypasses:
                return
            _bypasses.remove(self)
            if _bypasses or self._set is None or os.environ.get(VARIABLE) != self._set:
                return
            if self._before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = self._before


def _set_for(proxies: dict[str, str]) -> str | None:
    """What the variable has to be, or None when nothing stands in the way."""
    if not (proxies.keys() - {"no"}) or proxy_bypass(ADDRESS):
        return None
    named = proxies.get("no")
    return f"{named},{ADDRESS}" if named else ADDRESS
