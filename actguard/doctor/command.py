"""The command line of the doctor."""

from __future__ import annotations

import argparse
import io
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from actguard import __version__
from actguard.doctor.configuration import Configuration, Given, as_dict, read_configuration
from actguard.doctor.deadline import Deadline
from actguard.doctor.findings import Finding, problem
from actguard.doctor.gateway import check_gateway
from actguard.doctor.prices import check_prices
from actguard.doctor.sdks import Probes, check_sdks, probing
from actguard.doctor.spool import check_spool
from actguard.doctor.views import Lines, print_json

TIMEOUT_S = 60.0
LONGEST_TIMEOUT_S = 3600.0
SECTIONS = ("configuration", "gateway", "spool", "prices", "sdks")
TITLES = {
    "configuration": "Configuration",
    "gateway": "Gateway",
    "spool": "Spool",
    "prices": "Prices",
    "sdks": "Provider SDKs",
}
WELL, ILL, INTERRUPTED = 0, 1, 130
"""Exit codes. Bad usage is 2, as everywhere."""

Section = tuple[str, list[Finding]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``actguard doctor``."""
    parser.description = (
        "Looks whether everything is in place, and says how to fix what is not. It reads the configuration as "
        "Client.from_env() does, asks the gateway, and tries the SDKs against a provider on this machine. It changes "
        "nothing: no budget is reserved, no event is sent."
    )
    parser.epilog = "Exit codes: 0 no problem (there may be warnings), 1 a problem, 2 bad usage, 130 interrupted."
    parser.add_argument("--config", metavar="FILE", help="a JSON file with the client's settings, as Client.from_file")
    parser.add_argument("--gateway-url", metavar="URL", help="the gateway, where your code names it")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="the environment variable that holds the key, where your code reads it"
    )
    parser.add_argument("--api-key", type=_no_key, help=argparse.SUPPRESS)
    parser.add_argument("--spool", metavar="FILE", help="the spool, where your code names it")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, metavar="SECTION", help=f"only this, of: {', '.join(SECTIONS)}"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help=f"the longest that all of it may take (default: {TIMEOUT_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look at everything; the exit code."""
    configuration = read_configuration(Given(options.config, options.gateway_url, options.api_key_env, options.spool))
    wanted = options.only or SECTIONS
    if configuration.settings is None:  # else a part for which there are no settings would be shown as well
        wanted = ("configuration", *wanted)
    head = {
        "actguard": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has characters for arrows
    lines = None if options.json else Lines(sys.stdout)
    if lines is not None:
        lines.title(f"ActGuard {head['actguard']}, Python {head['python']}, {head['system']}")
    done: list[Section] = []
    try:
        for name, findings in _sections(configuration, wanted, Deadline(options.timeout)):
            done.append((name, findings))
            if lines is not None:
                lines.section(TITLES[name], findings)
    except KeyboardInterrupt:
        return INTERRUPTED
    everything = [each for _, findings in done for each in findings]
    if lines is not None:
        lines.sum_up(everything)
    else:
        print_json(head, as_dict(configuration), done)
    return ILL if any(each.status == "problem" for each in everything) else WELL


def _sections(configuration: Configuration, wanted: Sequence[str], deadline: Deadline) -> Iterator[Section]:
    """Each section as soon as it is known. The SDKs are tried meanwhile, and come last."""
    with ExitStack() as stack:
        probes: Probes = stack.enter_context(probing()) if "sdks" in wanted else {}
        for name in SECTIONS:
            if name in wanted:
                try:
                    findings = _looked_at(name, configuration, probes, deadline)
                except Exception as error:  # noqa: BLE001  one check that fails must not be the end of the others
                    fix = "This is a fault of ActGuard: please report it."
                    findings = [problem(name, f"could not be looked at ({type(error).__name__})", fix)]
                if findings:
                    yield name, findings


def _looked_at(name: str, configuration: Configuration, probes: Probes, deadline: Deadline) -> list[Finding]:
    match name:
        case "configuration":
            return configuration.findings
        case "gateway":
            return check_gateway(configuration, deadline)
        case "spool":
            return check_spool(configuration, deadline)
        case "prices":
            return check_prices()
        case _:
            return check_sdks(probes, deadline)


def _no_key(_: str) -> str:
    raise argparse.ArgumentTypeError(
        "command lines are seen by others and kept in histories: put the key into an environment variable, and give "
        "its name with --api-key-env"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds between 0 and {LONGEST_TIMEOUT_S:g}")
    return seconds
