"""The environments that are compared: made once, in .venv-bench, with what the package index has.

now       this tree, and the peers whose import names do not clash with it
earlier   ActGuard 1.0.2, which has the same import name
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".venv-bench"
PEERS = (
    "pyrate-limiter",
    "limits",
    "purgatory",
    "aiobreaker",
    "pybreaker",
    "tenacity",
    "stamina",
    "agentguard47",
    "agentbudget",
    "floe-guard",
)
NEEDED = {
    "now": ("-e", f"{ROOT}[openai]"),
    "earlier": ("actguard==1.0.2", "openai"),
}
_absent: dict[str, str] = {}


def python(environment: str) -> Path:
    """The interpreter of ``environment``, which is made if need be.

    Raises:
        RuntimeError: it cannot be made.
    """
    folder = HOME / environment
    interpreter = folder / "bin" / "python"
    if not (folder / ".made").exists():
        print(f"Making {folder} …", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        if (why := _install(interpreter, *NEEDED[environment])) is not None:
            raise RuntimeError(f"{environment}: {why}")
        for peer in PEERS if environment == "now" else ():
            if (why := _install(interpreter, peer)) is not None:
                _absent[peer] = why
        (folder / ".made").write_text("\n".join(f"{peer}: {why}" for peer, why in _absent.items()), encoding="utf-8")
    return interpreter


def absent() -> dict[str, str]:
    """The peers that the index did not have, and what it said."""
    python("now")
    lines = (HOME / "now" / ".made").read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line)


def _install(interpreter: Path, *what: str) -> str | None:
    """Install packages; what went wrong, or None."""
    command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"])[-1][:200]
