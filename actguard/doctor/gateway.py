"""What the gateway answers: that it is one, whether it accepts the key, and what its clock says.

Two requests tell it, and neither has an effect: the tariff is only read, and an empty batch of events has nothing in
it to record. The same batch under a made-up key shows whether the gateway looks at keys at all; without that, a yes
to the real one would mean nothing. They are sent by the transport that clients use, so what fails here fails there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from pydantic import SecretStr, ValidationError

from actguard import clock
from actguard.doctor.configuration import Configuration
from actguard.doctor.connection import STEP_S, Broken, address_of, reach
from actguard.doctor.deadline import Deadline
from actguard.doctor.findings import Finding, ok, problem, warning
from actguard.events import new_id
from actguard.gateway.failures import GatewayFailure
from actguard.gateway.http import Answer, Call, Transport, load
from actguard.gateway.wire import EVENTS_PATH, TARIFF_PATH
from actguard.money.tariff import Tariff
from actguard.settings import Settings

NO_EVENTS = b'{"events":[]}'
MADE_UP_KEY = "made-up-by-actguard-doctor"
FAST_CLOCK_S = 10.0
"""From here on times of events are misleading."""
WRONG_CLOCK_S = 120.0
"""From here on certificates and signatures may be refused."""

_READ = frozenset({400, 402, 409, 413, 422})
"""Refusals of a batch from a gateway that has looked at more than the key."""
_FIXES = {
    "redirect": "Set gateway_url to the address that it redirects to: redirects are not followed.",
    "not_json": "Check gateway_url: something answers there that is not the gateway (a web page, a proxy, a portal).",
    "not_http": "Check the port in gateway_url: something other than the gateway listens there.",
    "server_error": "Look into the gateway's own log. Meanwhile runs go on with local limits, and events wait.",
    "rate_limited": "Ask again in a while.",
    "timeout": "Look whether the gateway is overloaded. Meanwhile runs go on with local limits, and events wait.",
}
_ANY_FIX = "Look into the gateway's own log, and check that gateway_url names the gateway and nothing else."


def check_gateway(configuration: Configuration, deadline: Deadline) -> list[Finding]:
    """Everything there is to know about the gateway, as far as it can be reached."""
    settings = configuration.settings
    if settings is None:
        return []
    if not settings.has_gateway:
        return [ok("gateway", "none: local mode. Limits hold within each process, and nothing is sent")]
    findings: list[Finding] = []
    load()  # or the first request would seem to take as long
    asyncio.run(_examine(settings, configuration, deadline, findings.append))
    return findings


async def _examine(
    settings: Settings, configuration: Configuration, deadline: Deadline, found: Callable[[Finding], None]
) -> None:
    try:
        await reach(address_of(settings, configuration.source("gateway_url")), deadline, found)
    except Broken as broken:
        found(broken.finding)
        return
    asking = _Asking(settings, deadline)
    try:
        answer = _in_time(_is_gateway(await asking.ask(Call(TARIFF_PATH))), asking.took_s, settings)
        found(answer)
        if answer.status != "problem":
            found(await _key(asking, settings, configuration.source("api_key")))
        if asking.dates or answer.status != "problem":
            found(_clocks(asking.dates))
    finally:
        await asking.close()


Said = Answer | GatewayFailure


class _Asking:
    """Sends requests as a client would, once each, and notes what the gateway's clock says."""

    def __init__(self, settings: Settings, deadline: Deadline) -> None:
        self._settings = settings
        self._deadline = deadline
        self._transports: list[Transport] = []
        self._transport = self._made(settings)
        self.dates: list[tuple[float, float, str]] = []
        """When a request left, when its answer was there (seconds since 1970), and the Date in it."""
        self.took_s = 0.0
        """How long the last request took."""

    async def ask(self, call: Call, transport: Transport | None = None) -> Said:
        """The answer, or what went wrong."""
        began, started = clock.epoch(), clock.monotonic()
        said: Said
        try:
            said = await (transport or self._transport).attempt(call, self._deadline.left(STEP_S))
        except GatewayFailure as failure:
            said = failure
        self.took_s = clock.monotonic() - started
        if said.date is not None:
            self.dates.append((began, clock.epoch(), said.date))
        return said

    async def ask_with_made_up_key(self, call: Call) -> Said:
        """The same as somebody who has no key."""
        stranger = self._settings.model_copy(update={"api_key": SecretStr(MADE_UP_KEY), "debug": False})
        return await self.ask(call, self._made(stranger))

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()

    def _made(self, settings: Settings) -> Transport:
        self._transports.append(Transport(settings))
        return self._transports[-1]


def _is_gateway(said: Said) -> Finding:
    """The answer to the question for the tariff, which a gateway need not have."""
    if isinstance(said, Answer):
        try:
            tariff = Tariff.model_validate(said.payload)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"][:6]) or "it"
            return warning(
                "answers",
                f"yes, but its tariff cannot be read: {where} {first['msg'][:1].lower()}{first['msg'][1:]}",
                "Check that gateway_url names the gateway, and its tariff. Meanwhile a cost unit is a USD / 1,000.",
            )
        return ok("answers", f"yes, and has a tariff for cost limits ({tariff.tariff_version})")
    if said.status == 404:
        return ok("answers", "yes, and has no tariff: cost limits count USD × 1,000")
    if said.status in (401, 403):
        return ok("answers", f"yes, but shows its tariff only to those it knows ({said.status})")
    if said.status == 429:
        return warning("answers", _told(said), _FIXES["rate_limited"])
    return problem("answers", _told(said), _FIXES.get(said.kind, _ANY_FIX))


def _in_time(finding: Finding, took_s: float, settings: Settings) -> Finding:
    """A gateway that is slow is one that most budgets will have to do without."""
    if finding.status != "ok" or took_s <= settings.budget_timeout_s / 2:
        return finding
    return warning(
        finding.check,
        f"yes, but after {took_s:.1f} s: entering and leaving a budget wait as long, for at most "
        f"{settings.budget_timeout_s:g} s",
        "Run the gateway nearer to your program, or give it more resources. If neither is possible, raise "
        "budget_timeout_s.",
    )


async def _key(asking: _Asking, settings: Settings, source: str) -> Finding:
    call = Call(EVENTS_PATH, NO_EVENTS, key=new_id(), reads_answer=False)
    said = await asking.ask(call)
    status = said.status
    if status == 401:
        return problem(
            "key",
            "the gateway refuses it (401): runs go on with local limits only, and no events arrive",
            f"Set api_key (from {source}) to a key of the gateway at {settings.gateway_url}, without quotes around it.",
        )
    if status == 403:
        return problem(
            "key",
            "the gateway knows it, but does not let it send events (403)",
            "Give the key the right to reserve, settle and send events, or use one that has it.",
        )
    if status in (404, 405):
        return problem(
            "key",
            f"the gateway does not know {EVENTS_PATH} ({status}), so the key could not be tried",
            f"Check the path in gateway_url: {settings.gateway_url}{EVENTS_PATH} must exist.",
        )
    if isinstance(said, GatewayFailure) and status not in _READ:
        finding = warning if status == 429 else problem
        return finding("key", f"it could not be tried: {_told(said)}", _FIXES.get(said.kind, _ANY_FIX))
    stranger = await asking.ask_with_made_up_key(call)
    if stranger.status not in (401, 403):
        return warning(
            "key",
            "it was not refused, but neither was a made-up one, so this says nothing",
            "Have the gateway check keys before anything else.",
        )
    if status == 402:
        return warning("key", "accepted, but the account has to be topped up (402)", "Top up the account.")
    return ok("key", "accepted (an empty batch of events was sent to find out; nothing is recorded)")


def _clocks(dates: list[tuple[float, float, str]]) -> Finding:
    """How far this machine's clock is from the gateway's, whose Date is cut to whole seconds."""
    offsets = []
    for left, came, text in dates:
        try:
            there = parsedate_to_datetime(text).timestamp()
        except (ValueError, OverflowError):
            continue
        # Both moments and the whole second are allowed for: only what is surely wrong counts.
        earliest, latest = left - (there + 1), came - there
        offsets.append(0.0 if earliest <= 0 <= latest else min(earliest, latest, key=abs))
    if not offsets:
        return warning(
            "clock",
            "the gateway's answers have no usable Date, so the clocks cannot be compared",
            "Compare them by hand: date -u, here and there.",
        )
    ahead = min(offsets, key=abs)
    if abs(ahead) < FAST_CLOCK_S:
        return ok("clock", "agrees with the gateway's")
    finding = problem if abs(ahead) >= WRONG_CLOCK_S else warning
    return finding(
        "clock",
        f"this machine's is {_span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the gateway's: "
        "events carry wrong times, and certificates may be refused",
        "Set the wrong one of the two by a time server (on Linux: timedatectl set-ntp true).",
    )


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _told(failure: GatewayFailure) -> str:
    text = failure.summary[:1].lower() + failure.summary[1:].rstrip(".")
    return f"{text} ({failure.status})" if failure.status else text
