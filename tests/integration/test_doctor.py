"""`actguard doctor` on days that go wrong: real gateways on this machine, real certificates, real files."""

from __future__ import annotations

import base64
import datetime
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from gateway_tools import certificate, client_of, recorded
from scripts import ROOT

from actguard.cli import main
from actguard.doctor.configuration import Given, read_configuration
from actguard.doctor.deadline import Deadline
from actguard.doctor.findings import Finding, ok, problem, warning
from actguard.doctor.gateway import check_gateway
from actguard.doctor.prices import check_prices
from actguard.doctor.sdks import SDKS
from actguard.doctor.views import Lines, summary
from actguard.events import CustomEvent
from actguard.testing import HandClock
from actguard.testing.gateway import Fault, LoopbackGateway

KEY = "sk-very-secret-0123456789"
KEY_VARIABLE = "MY_GATEWAY_KEY"
WATCHDOG_S = 120
QUICK = ("--only", "configuration", "--only", "gateway", "--only", "spool")


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the machine that the tests run on."""
    proxies = (name for scheme in ("http", "https") for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()))
    for name in ("ACTGUARD_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR", *proxies):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture
def gateway() -> Iterator[LoopbackGateway]:
    with LoopbackGateway(api_key=KEY) as gateway:
        yield gateway


@dataclass(frozen=True)
class Said:
    """What the doctor said."""

    exit_code: int
    text: str
    findings: Mapping[str, Finding]
    """By check; where there are several, the last."""
    settings: Mapping[str, Any]

    def status(self, check: str) -> str:
        return self.findings[check].status

    @property
    def unwell(self) -> dict[str, str]:
        return {check: each.status for check, each in self.findings.items() if each.status != "ok"}


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(*arguments: str) -> Said:
        exit_code = main(["doctor", "--json", *arguments])
        text = capsys.readouterr().out
        said = json.loads(text)
        findings = {
            each["check"]: Finding(each["check"], each["status"], each["message"], each["fix"])
            for each in said["findings"]
        }
        assert all((each.fix is None) == (each.status == "ok") for each in findings.values())
        return Said(exit_code, text, findings, said["settings"])

    return ask


def asked(gateway: LoopbackGateway, *more: str) -> tuple[str, ...]:
    return (*QUICK, "--gateway-url", gateway.url, "--api-key-env", KEY_VARIABLE, *more)


# --- a day on which all is well ---------------------------------------------------------------------------------


def test_without_a_gateway_everything_is_local_and_well(doctor: Any) -> None:
    said = doctor(*QUICK, "--only", "prices")
    assert (said.exit_code, said.unwell) == (0, {})
    assert "local mode" in said.findings["gateway"].message
    assert "genai-prices" in said.findings["price list"].message


def test_a_gateway_that_works(doctor: Any, gateway: LoopbackGateway) -> None:
    said = doctor(*asked(gateway))
    assert (said.exit_code, said.unwell) == (0, {})
    assert {"connection", "TLS", "answers", "key", "clock"} <= set(said.findings)


def test_looking_has_no_effect(doctor: Any, gateway: LoopbackGateway) -> None:
    doctor(*asked(gateway))
    assert [(request.method, request.path, request.body) for request in gateway.requests] == [
        ("GET", "/api/v1/cu-tariff", None),
        ("POST", "/api/v1/events", {"events": []}),
        ("POST", "/api/v1/events", {"events": []}),  # under a made-up key
    ]
    assert (gateway.reservations, gateway.events) == ([], [])


def test_lines_for_people(capsys: pytest.CaptureFixture[str], gateway: LoopbackGateway) -> None:
    assert main(["doctor", *asked(gateway)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ActGuard 2.")
    assert "Gateway" in lines
    assert lines[-1] == "All is well."
    gateway.fail("events", Fault(status=401))
    assert main(["doctor", *asked(gateway)]) == 1
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("  problem  key "))
    assert "(401)" in lines[place]
    assert lines[place + 1].strip().startswith(f"→ Set api_key (from the variable {KEY_VARIABLE})")
    assert lines[-1] == "1 problem."


# --- the configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["base64", "path", "option"])
def test_each_setting_is_named_with_its_source(
    way: str, doctor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"api_key": KEY, "gateway_url": "http://127.0.0.1:1", "budget_timeout_s": 2.5, "spool": None})
    path = tmp_path / "actguard.json"
    path.write_text(text)
    arguments: tuple[str, ...] = ()
    if way == "option":
        arguments, source = ("--config", str(path)), f"--config {path}"
    elif way == "path":
        monkeypatch.setenv("ACTGUARD_CONFIG", str(path))
        source = f"ACTGUARD_CONFIG, the file {path}"
    else:
        monkeypatch.setenv("ACTGUARD_CONFIG", base64.b64encode(text.encode()).decode())
        source = "ACTGUARD_CONFIG (base64)"
    said = doctor("--only", "configuration", *arguments, "--spool", str(tmp_path / "s.db"))
    assert said.findings["budget_timeout_s"].message == f"2.5 (from {source})"
    assert said.settings["gateway_url"] == {"value": "http://127.0.0.1:1", "source": source}
    assert said.settings["spool"]["source"] == "--spool"
    assert said.settings["event_timeout_s"] == {"value": "5.0", "source": "default"}
    assert said.settings["api_key"] == {"value": "set, and never shown", "source": source}
    assert (said.exit_code, said.unwell) == (0, {})


def test_the_key_is_never_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: LoopbackGateway
) -> None:
    base = {"api_key": KEY, "gateway_url": gateway.url, "debug": True}
    for settings in (base, {**base, "timeout_s": "3"}, {**base, "gateway_url": f"https://{KEY}@gateway.test"}):
        text = json.dumps(settings)
        for value in (text, base64.b64encode(text.encode()).decode(), KEY, f"/nowhere/{KEY}"):
            monkeypatch.setenv("ACTGUARD_CONFIG", value)
            for arguments in (QUICK, (*QUICK, "--json")):
                main(["doctor", *arguments])
                captured = capsys.readouterr()
                assert KEY not in captured.out + captured.err
                assert base64.b64encode(text.encode()).decode() not in captured.out


@pytest.mark.parametrize(
    ("settings", "check", "words"),
    [
        ({"gateway_ulr": "https://x.test"}, "gateway_ulr", "did you mean gateway_url"),
        ({"budget_timeout_s": "three"}, "budget_timeout_s", "number"),
        ({"gateway_url": "http://gateway.test", "api_key": "k"}, "gateway_url", "clear text"),
        ({"prices": {"my-model": {"input_per_mtok": -1}}}, "prices", "output_per_mtok is missing"),
    ],
)
def test_a_wrong_setting_is_a_problem_that_names_it(
    settings: dict[str, Any], check: str, words: str, doctor: Any, tmp_path: Path
) -> None:
    path = tmp_path / "actguard.json"
    path.write_text(json.dumps(settings))
    said = doctor(*QUICK, "--config", str(path))
    assert (said.exit_code, said.unwell) == (1, {check: "problem"})
    assert words in said.findings[check].message
    assert str(path) in said.findings[check].fix


def test_a_configuration_that_is_none(doctor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = doctor("--only", "configuration", "--config", str(tmp_path / "nowhere.json"))
    assert (said.exit_code, said.unwell) == (1, {"settings": "problem"})
    assert "No such file" in said.findings["settings"].message
    monkeypatch.setenv("ACTGUARD_CONFIG", "neither")
    assert "base64" in doctor("--only", "configuration").findings["settings"].message
    monkeypatch.delenv("ACTGUARD_CONFIG")
    said = doctor("--only", "configuration", "--api-key-env", KEY)
    assert said.unwell == {"api_key": "problem"}
    assert KEY not in said.text


@pytest.mark.parametrize("part", ["gateway", "spool"])
def test_a_part_that_could_not_be_looked_at_is_not_well(part: str, doctor: Any, tmp_path: Path) -> None:
    said = doctor("--only", part, "--config", str(tmp_path / "nowhere.json"))
    assert (said.exit_code, said.unwell) == (1, {"settings": "problem"})


def test_half_a_gateway_is_doubted(doctor: Any) -> None:
    said = doctor(*QUICK, "--gateway-url", "https://gateway.test")
    assert (said.exit_code, said.unwell) == (0, {"api_key": "warning"})
    assert "--api-key-env" in said.findings["api_key"].fix
    assert doctor(*QUICK, "--api-key-env", KEY_VARIABLE).unwell == {"gateway_url": "warning"}


# --- the way to the gateway -------------------------------------------------------------------------------------


def test_a_gateway_that_is_down(doctor: Any) -> None:
    with LoopbackGateway() as gateway:
        pass
    said = doctor(*asked(gateway))
    assert (said.exit_code, said.unwell) == (1, {"connection": "problem"})
    assert "connection refused" in said.findings["connection"].message
    assert "--gateway-url" in said.findings["connection"].fix


def test_a_proxy_that_is_not_asked_is_told(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackGateway() as gateway:
        pass
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    assert "HTTP_PROXY is set here" in doctor(*asked(gateway)).findings["connection"].fix


def test_a_name_that_nobody_knows(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    said = doctor(*QUICK, "--gateway-url", "https://gateway.test", "--api-key-env", KEY_VARIABLE)
    assert (said.exit_code, said.unwell) == (1, {"name": "problem"})
    assert said.findings["name"].message == "gateway.test cannot be looked up: name or service not known"


def test_a_name_with_one_dead_address(doctor: Any, gateway: LoopbackGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(gateway.url.rpartition(":")[2])

    def two_addresses(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    said = doctor(*QUICK, "--gateway-url", f"http://gateway.localhost:{port}", "--api-key-env", KEY_VARIABLE)
    assert said.findings["name"].message == "gateway.localhost is 127.0.0.9, 127.0.0.1"
    assert said.unwell == {"connection": "warning"}


@pytest.mark.parametrize(("scheme", "check"), [("http", "answers"), ("https", "TLS")])
def test_a_gateway_that_says_nothing_is_not_waited_for(scheme: str, check: str, doctor: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        said = doctor(*QUICK, "--timeout", "0.3", "--gateway-url", url, "--api-key-env", KEY_VARIABLE)
    assert (said.exit_code, said.unwell) == (1, {check: "problem"})


@pytest.mark.parametrize(
    ("trouble", "status", "words", "cure"),
    [
        ("self-signed", "problem", "self-signed certificate", "SSL_CERT_FILE"),
        ("expired", "problem", "expired", "clock of this machine"),
        ("another host", "problem", "not valid for", "host name of the certificate"),
        ("soon", "warning", "(4 days left)", "Renew it"),
        ("none", "ok", "accepted, and valid until", None),
    ],
)
def test_certificates(
    trouble: str,
    status: str,
    words: str,
    cure: str | None,
    doctor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    days = {"expired": -3, "soon": 5}.get(trouble, 60)
    context, public = certificate(
        tmp_path, valid_days=days, host="127.0.0.7" if trouble == "another host" else "127.0.0.1"
    )
    if trouble != "self-signed":
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
    with LoopbackGateway(api_key=KEY, tls=context) as gateway:
        said = doctor(*asked(gateway))
    finding = said.findings["TLS"]
    assert finding.status == status
    assert words in finding.message.replace("IP address mismatch, certificate is ", "")
    assert (cure or "") in (finding.fix or "")
    assert ("key" in said.findings) is (status != "problem")


def test_https_where_http_is_spoken(doctor: Any, gateway: LoopbackGateway) -> None:
    said = doctor(*QUICK, "--gateway-url", gateway.url.replace("http", "https"), "--api-key-env", KEY_VARIABLE)
    assert said.unwell == {"TLS": "problem"}
    assert "does not speak TLS" in said.findings["TLS"].message


def test_a_key_in_clear_text_is_doubted(gateway: LoopbackGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    address = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: address)
    url = gateway.url.replace("127.0.0.1", "gateway.test")
    text = json.dumps({"api_key": KEY, "gateway_url": url, "allow_insecure_gateway": True})
    configuration = read_configuration(Given(), {"ACTGUARD_CONFIG": base64.b64encode(text.encode()).decode()})
    by_check = {each.check: each for each in check_gateway(configuration, Deadline(20))}
    assert by_check["TLS"].status == "warning"
    assert "clear text" in by_check["TLS"].message


# --- what the gateway answers -----------------------------------------------------------------------------------


def test_a_wrong_key(doctor: Any, gateway: LoopbackGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-mistyped")
    said = doctor(*asked(gateway))
    assert (said.exit_code, said.unwell) == (1, {"key": "problem"})
    assert KEY_VARIABLE in said.findings["key"].fix
    assert len(gateway.received("events")) == 1  # no made-up key is needed then


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (Fault(status=200), "warning", "neither was a made-up one"),
        (Fault(status=422), "warning", "neither was a made-up one"),
        (Fault(status=403), "problem", "does not let it send events"),
        (Fault(status=404), "problem", "does not know /api/v1/events"),
        (Fault(status=429), "warning", "slow down"),
        (Fault(status=500), "problem", "problem of its own (500)"),
        (Fault(reset=True), "problem", "without an answer"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_is_said_to_the_key(fault: Fault, status: str, words: str, doctor: Any, gateway: LoopbackGateway) -> None:
    gateway.fail("events", fault)
    said = doctor(*asked(gateway))
    assert said.unwell == {"key": status}
    assert words in said.findings["key"].message


def test_an_account_that_has_to_be_topped_up(doctor: Any, gateway: LoopbackGateway) -> None:
    gateway.fail("events", Fault(status=402), times=1)
    said = doctor(*asked(gateway))
    assert (said.exit_code, said.unwell) == (0, {"key": "warning"})
    assert "topped up" in said.findings["key"].message


TARIFF = {
    "tariff_version": "2026-11",
    "cu_per_usd": 1000,
    "registry_version": "1",
    "llm": {"default": {"input_cu_per_1k": 1, "output_cu_per_1k": 2, "cached_cu_per_1k": 1}, "providers": {}},
    "tools": {},
}


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (Fault(body=TARIFF, status=200), "ok", "has a tariff for cost limits (2026-11)"),
        (Fault(body={**TARIFF, "cu_per_usd": "many"}, status=200), "warning", "cannot be read: cu_per_usd"),
        (Fault(status=401), "ok", "(401)"),
        (Fault(status=429), "warning", "slow down (429)"),
        (Fault(status=301, headers={"Location": "https://www.gateway.test/"}), "problem", "redirects to"),
        (Fault(status=200, body=b"<html>"), "problem", "not JSON"),
        (Fault(status=503), "problem", "(503)"),
    ],
    ids=["tariff", "wrong-tariff", "401", "429", "301", "html", "503"],
)
def test_what_answers(fault: Fault, status: str, words: str, doctor: Any, gateway: LoopbackGateway) -> None:
    gateway.fail("tariff", fault)
    said = doctor(*asked(gateway))
    assert said.findings["answers"].status == status
    assert words in said.findings["answers"].message
    assert ("key" in said.findings) is (status != "problem")
    assert said.exit_code == (status == "problem")


def test_a_gateway_that_is_slow(doctor: Any, gateway: LoopbackGateway, tmp_path: Path) -> None:
    path = tmp_path / "actguard.json"
    path.write_text(json.dumps({"budget_timeout_s": 0.1}))
    gateway.fail("tariff", Fault(delay_s=0.06))
    said = doctor(*asked(gateway, "--config", str(path)))
    assert (said.exit_code, said.unwell) == (0, {"answers": "warning"})
    assert "budget_timeout_s" in said.findings["answers"].fix


@pytest.mark.parametrize(
    ("off_by_s", "status", "words"),
    [
        (0, "ok", "agrees"),
        (600, "problem", "10 minutes behind"),
        (-600, "problem", "10 minutes ahead of"),
        (-30, "warning", "ahead of"),
        (90_000, "problem", "25.0 hours behind"),
    ],
)
def test_clocks(off_by_s: int, status: str, words: str, doctor: Any, gateway: LoopbackGateway) -> None:
    there = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=off_by_s)
    for operation in ("tariff", "events"):
        gateway.fail(operation, Fault(headers={"Date": format_datetime(there, usegmt=True)}))
    said = doctor(*asked(gateway))
    assert said.findings["clock"].status == status
    assert words in said.findings["clock"].message


def test_a_clock_is_compared_when_the_key_is_wrong_too(
    doctor: Any, gateway: LoopbackGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-mistyped")
    assert doctor(*asked(gateway)).status("clock") == "ok"


def test_a_date_that_is_none(doctor: Any, gateway: LoopbackGateway) -> None:
    for operation in ("tariff", "events"):
        gateway.fail(operation, Fault(headers={"Date": "yesterday"}))
    assert doctor(*asked(gateway)).unwell == {"clock": "warning"}


# --- the spool --------------------------------------------------------------------------------------------------


def fill(spool: Path, gateway: LoopbackGateway, events: int = 1) -> None:
    """Leave so many events in a spool, by a client whose gateway is away."""
    gateway.fail("events", Fault(status=503))
    with recorded(), client_of(gateway, spool=str(spool), event_timeout_s=1.0, budget_timeout_s=1.0) as client:
        for number in range(events):
            client.bus.publish(CustomEvent(category="test", name="note", payload={"number": number}))
    gateway.heal()


def spool_said(doctor: Any, gateway: LoopbackGateway, spool: Path) -> Said:
    said: Said = doctor(*asked(gateway, "--only", "spool", "--spool", str(spool)))
    return said


def test_a_spool_that_is_not_there_yet(doctor: Any, gateway: LoopbackGateway, tmp_path: Path) -> None:
    said = spool_said(doctor, gateway, tmp_path / "spool.db")
    assert (said.exit_code, said.status("file")) == (0, "ok")
    assert list(tmp_path.iterdir()) == []
    assert (
        spool_said(doctor, gateway, tmp_path / "nowhere" / "spool.db").findings["file"].fix
        == f"Make it: mkdir -p {tmp_path}/nowhere"
    )
    assert spool_said(doctor, gateway, tmp_path).status("file") == "problem"


def test_what_waits_is_counted_and_left_alone(doctor: Any, gateway: LoopbackGateway, tmp_path: Path) -> None:
    spool = tmp_path / "spool.db"
    fill(spool, gateway, events=3)
    said = spool_said(doctor, gateway, spool)
    assert (said.exit_code, said.unwell) == (0, {})
    assert "is whole" in said.findings["file"].message
    assert said.findings["waiting"].message.startswith("3 events, the oldest for ")
    assert [path.name for path in tmp_path.iterdir()] == ["spool.db"]
    client_of(gateway, spool=str(spool)).close()
    assert len(gateway.events) == 3
    assert spool_said(doctor, gateway, spool).findings["waiting"].message == "nothing: everything was delivered"


def test_what_waits_for_long_or_for_others(
    doctor: Any, gateway: LoopbackGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool.db"
    fill(spool, gateway)
    where = ("--api-key-env", KEY_VARIABLE, "--spool", str(spool))
    with HandClock(time.time() + 3.1 * 3600):
        said = doctor("--only", "spool", *where, "--gateway-url", gateway.url)
    assert said.status("waiting") == "warning"
    assert said.findings["waiting"].message == "1 event, the oldest for 3 hours"
    said = doctor("--only", "spool", "--gateway-url", "http://127.0.0.1:1", *where)
    assert said.findings["waiting"].message == f"1 event for another gateway, {gateway.url}"
    monkeypatch.setenv(KEY_VARIABLE, "sk-new")
    said = doctor("--only", "spool", "--gateway-url", gateway.url, *where)
    assert said.findings["waiting"].message == "1 event for another key"
    said = doctor("--only", "spool", "--spool", str(spool))
    assert said.findings["waiting"].message.startswith(f"1 event for {gateway.url}, the oldest for ")
    assert said.unwell == {}


def test_a_spool_while_a_client_uses_it(doctor: Any, gateway: LoopbackGateway, tmp_path: Path) -> None:
    spool = tmp_path / "spool.db"
    with client_of(gateway, spool=str(spool)) as client:
        client.bus.publish(CustomEvent(category="test", name="note"))
        assert client.flush()
        assert spool_said(doctor, gateway, spool).unwell == {}
        client.bus.publish(CustomEvent(category="test", name="note"))
    assert len(gateway.events) == 2


@pytest.mark.parametrize("damage", ["garbage", "torn", "newer", "foreign", "locked"])
def test_a_spool_that_cannot_be_used(damage: str, doctor: Any, gateway: LoopbackGateway, tmp_path: Path) -> None:
    spool = tmp_path / "spool.db"
    words = {"garbage": "no spool at all", "torn": "damaged", "newer": "newer version", "foreign": "something else"}
    if damage == "garbage":
        spool.write_bytes(b"no database" * 1000)
    elif damage != "foreign":
        fill(spool, gateway, events=200)
    with closing(sqlite3.connect(spool, isolation_level=None)) as file:
        if damage == "newer":
            file.execute("PRAGMA user_version = 99")
        elif damage == "foreign":
            file.execute("CREATE TABLE customers (name TEXT)")
        elif damage == "locked":
            file.execute("PRAGMA locking_mode = EXCLUSIVE")
            file.execute("BEGIN EXCLUSIVE")
        elif damage == "torn":
            pages = spool.read_bytes()
            spool.write_bytes(pages[: 4096 * 2] + b"\xff" * 4096 + pages[4096 * 3 :])
        said = spool_said(doctor, gateway, spool)
    assert (said.exit_code, said.unwell) == (1, {"file": "problem"})
    assert words.get(damage, "locked by another program") in said.findings["file"].message


def test_a_spool_that_is_nearly_full(doctor: Any, gateway: LoopbackGateway, tmp_path: Path) -> None:
    spool, config = tmp_path / "spool.db", tmp_path / "actguard.json"
    fill(spool, gateway, events=200)
    config.write_text(json.dumps({"spool": str(spool), "spool_max_bytes": 65_536, "gateway_url": gateway.url}))
    said = doctor("--only", "spool", "--config", str(config), "--api-key-env", KEY_VARIABLE)
    assert said.unwell == {"file": "warning"}
    assert "spool_max_bytes" in said.findings["file"].fix


# --- prices and SDKs --------------------------------------------------------------------------------------------


def test_an_old_price_list_is_told() -> None:
    assert [each.status for each in check_prices()] == ["ok"]
    with HandClock(time.time() + 400 * 86_400):
        (finding,) = check_prices()
    assert finding.status == "warning"
    assert "pip install --upgrade genai-prices" in (finding.fix or "")


def test_the_oldest_versions_are_those_that_are_asked_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {sdk.name: [f"{sdk.package}>={sdk.oldest}"] for sdk in SDKS} == {sdk.name: extras[sdk.name] for sdk in SDKS}


def interpreter(*arguments: str, path: Path | None = None, alone: bool = False) -> subprocess.CompletedProcess[str]:
    """The doctor in an interpreter of its own, with ``path`` before (or, alone, in place of) the installed packages."""
    paths = [str(ROOT), *([str(path)] if path is not None else [])]
    command = [
        sys.executable,
        *(["-S"] if alone else []),
        "-c",
        "import sys; from actguard.cli import main; sys.exit(main())",
    ]
    return subprocess.run(
        [*command, "doctor", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )


def test_calls_of_the_installed_sdks_are_counted() -> None:
    ran = interpreter("--only", "sdks", "--timeout", "110")
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert ran.stdout.count("are counted: a plain and an asynchronous one were tried") == len(SDKS)


def install(path: Path, package: str, version: str, module: str) -> None:
    """A package of this name and version, in a directory of its own."""
    info = path / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (path / f"{package.replace('-', '_')}.py").write_text(module)


UNCOUNTED = """
class OpenAI:
    def __init__(self, **settings):
        self.chat = self.completions = self
    def create(self, **request):
        return "an answer that nobody has seen"
    def close(self):
        pass

class AsyncOpenAI(OpenAI):
    async def create(self, **request):
        return "another"
    async def __aenter__(self):
        return self
    async def __aexit__(self, *error):
        pass
"""


def test_sdks_that_are_too_old_too_new_or_broken(tmp_path: Path) -> None:
    install(tmp_path, "openai", "1.75.9", UNCOUNTED)
    install(tmp_path, "anthropic", "99.0.0", "raise SystemExit(3)")
    install(tmp_path, "google-genai", "3.99", "")
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "__init__.py").touch()
    ran = interpreter("--only", "sdks", "--json", path=tmp_path)
    assert ran.returncode == 1, ran.stderr
    found = {each["check"]: (each["status"], each["message"]) for each in json.loads(ran.stdout)["findings"]}
    assert found["openai"][0] == "problem"
    assert "1.75.9 is older than 1.76" in found["openai"][1]
    assert found["openai calls"] == ("problem", "0 of 2 were counted")
    assert found["anthropic"][0] == "warning"
    assert found["anthropic calls"] == ("problem", "an interpreter that tried one ended with exit code 3")
    assert found["google-genai"][0] == "ok"
    assert "a little newer" in found["google-genai"][1]
    assert found["google-genai calls"][0] == "problem"
    assert "could not be tried: ImportError: " in found["google-genai calls"][1]


def test_without_any_sdk_and_without_rich(tmp_path: Path) -> None:
    left_out = ("openai", "anthropic", "google", "rich", "actguard", "_actguard", "__editable__")
    for entry in Path(pytest.__file__).parents[1].iterdir():
        if not entry.name.startswith(left_out):
            (tmp_path / entry.name).symlink_to(entry)
    ran = interpreter("--only", "sdks", path=tmp_path, alone=True)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert ran.stdout.count("not installed\n") == len(SDKS)
    assert "no call is counted" in ran.stdout


def test_the_time_is_bounded(doctor: Any) -> None:
    said = doctor("--only", "sdks", "--timeout", "0.05")
    assert (said.exit_code, set(said.unwell.values())) == (0, {"warning"})
    assert "--timeout" in said.findings["openai calls"].fix


def test_a_check_that_fails_is_not_the_end_of_the_others(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError(KEY)

    monkeypatch.setattr("actguard.doctor.command.check_gateway", broken)
    said = doctor(*QUICK)
    assert (said.exit_code, said.unwell) == (1, {"gateway": "problem"})
    assert "spool" in said.findings
    assert KEY not in said.text


# --- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--timeout", "0"], ["--timeout", "soon"], ["--only", "weather"], ["--api-key", KEY], ["--api-k", "x"], ["now"]],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "usage: actguard" in told
    assert KEY not in told


def test_whoever_reads_the_lines_may_leave() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from actguard.cli import main; sys.exit(main(['doctor', '--only', 'spool']))"
    ran = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=WATCHDOG_S, check=False
    )
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (1, b"")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_folded_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TERM", "xterm")
    for colours in (True, False):
        if colours:
            monkeypatch.delenv("NO_COLOR", raising=False)
        else:
            monkeypatch.setenv("NO_COLOR", "1")
        out = Terminal()
        Lines(out).section("Gateway", [problem("key", "refused " * 20, "Set it " * 20), ok("clock", "agrees")])
        lines = out.getvalue().splitlines()
        assert ("\x1b[1;31m" in out.getvalue()) is colours
        assert len(lines) > 6
        assert all(len(line) <= 90 + 20 * colours for line in lines)
        assert all(line.startswith(" " * 32) for line in lines[3:-1])


@pytest.mark.parametrize(
    ("findings", "sentence"),
    [
        ([ok("a", "b")], "All is well."),
        ([warning("a", "b", "c")], "1 warning, and nothing that keeps ActGuard from working."),
        ([problem("a", "b", "c"), warning("a", "b", "c"), problem("a", "b", "c")], "2 problems and 1 warning."),
    ],
)
def test_the_last_line(findings: list[Finding], sentence: str) -> None:
    assert summary(findings) == sentence
