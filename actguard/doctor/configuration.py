"""Which settings hold, and where each of them comes from.

What a program passes to ``Client(...)`` in its code cannot be seen from outside. Such programs name the parts that
matter on the command line; the key by the name of the environment variable that holds it, since command lines are
seen by others and kept in histories.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actguard import settings as settings_module
from actguard.client import CONFIG_VARIABLE
from actguard.doctor.findings import Finding, counted, ok, problem, warning
from actguard.exceptions import ActGuardUsageError
from actguard.money.prices import PriceBook
from actguard.settings import Settings

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says about the configuration."""

    config: str | None = None
    """A file, in place of `CONFIG_VARIABLE`."""
    gateway_url: str | None = None
    key_variable: str | None = None
    """The environment variable that holds the key."""
    spool: str | None = None


@dataclass(slots=True)
class Configuration:
    """The settings, if they are valid, and what there is to say about them."""

    settings: Settings | None = None
    sources: dict[str, str] = field(default_factory=dict)
    """By setting; those that have their defaults are left out."""
    findings: list[Finding] = field(default_factory=list)

    def source(self, name: str) -> str:
        """Where a setting comes from, for a sentence."""
        return self.sources.get(name, DEFAULT)


def read_configuration(given: Given, environment: Mapping[str, str] | None = None) -> Configuration:
    """What a client would be configured with. Never raises; what is wrong is a finding."""
    environment = os.environ if environment is None else environment
    result = Configuration()
    try:
        values, source = _file_or_environment(given, environment)
    except ActGuardUsageError as error:
        where = "--config" if given.config is not None else CONFIG_VARIABLE
        result.findings.append(
            problem(
                "settings", str(error), f"Correct {where}: the path of a JSON file, or (in the variable) its base64."
            )
        )
        return result
    values = {name: value for name, value in values.items() if value is not None}
    result.sources.update(dict.fromkeys(values, source))
    for name, value, option in (
        ("gateway_url", given.gateway_url, "--gateway-url"),
        ("spool", given.spool, "--spool"),
    ):
        if value is not None:
            values[name] = value
            result.sources[name] = option
    if given.key_variable is not None:
        key = environment.get(given.key_variable)
        if not key:
            # Its name is not shown: it may be the key itself, in the wrong place.
            message = "the environment variable that --api-key-env names is not set, or empty"
            result.findings.append(problem("api_key", message, "Set it to the key, or name another one."))
            return result
        values["api_key"] = key
        result.sources["api_key"] = f"the variable {given.key_variable}"
    _validate(values, source, result)
    return result


def _file_or_environment(given: Given, environment: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """The settings that are written down somewhere, and where. Raises: ActGuardUsageError."""
    if given.config is not None:
        return settings_module.read_file(given.config), f"--config {given.config}"
    value = environment.get(CONFIG_VARIABLE)
    if not value:
        return {}, CONFIG_VARIABLE
    try:
        return settings_module.read_file(value), f"{CONFIG_VARIABLE}, the file {value}"
    except ActGuardUsageError:
        pass  # its message shows the value, which can hold the key
    return settings_module.read_env_value(value), f"{CONFIG_VARIABLE} (base64)"


def _validate(values: Mapping[str, Any], source: str, result: Configuration) -> None:
    try:
        settings = settings_module.validate(values, source="settings")
        PriceBook(settings.prices)
    except ActGuardUsageError as error:
        wrong = (error.field or "settings").partition("[")[0]
        message = str(error).removeprefix("settings: ").removeprefix(f"{wrong} ")
        result.findings.append(problem(wrong, message, f"Correct it in {result.sources.get(wrong, source)}."))
        return
    result.settings = settings
    if not values:
        result.findings.append(
            ok(
                "settings",
                f"all defaults: {CONFIG_VARIABLE} is not set. What your code passes to Client(...) is not seen from "
                "here: use --config, or --gateway-url and --api-key-env",
            )
        )
        return
    for name in Settings.model_fields:
        if name in values:
            result.findings.append(ok(name, f"{_shown(name, settings)} (from {result.sources[name]})"))
    result.findings.append(ok("other settings", "have their defaults"))
    result.findings += _doubts(settings)


def _shown(name: str, settings: Settings) -> str:
    value = getattr(settings, name)
    if name == "api_key":
        return "set, and never shown" if settings.api_key is not None else "empty"
    if name == "prices":
        return counted(len(settings.prices), "price") + " of your own"
    return str(value)


def _doubts(settings: Settings) -> list[Finding]:
    """What is valid and hardly meant."""
    doubts = []
    for one, other in (("gateway_url", "api_key"), ("api_key", "gateway_url")):
        if getattr(settings, one) is not None and getattr(settings, other) is None:
            doubts.append(
                warning(
                    other,
                    f"is missing, and {one} is set: without both nothing is sent to a gateway",
                    f"Set {other} too" + (", or name its variable with --api-key-env." if other == "api_key" else "."),
                )
            )
    if settings.has_gateway and settings.event_mode == "off":
        doubts.append(
            warning("event_mode", "is off: the gateway gets no events", 'Set event_mode to "significant" or "verbose".')
        )
    return doubts


def as_dict(configuration: Configuration) -> dict[str, dict[str, str]]:
    """Every setting with its value and its source; the key is not shown."""
    settings = configuration.settings
    if settings is None:
        return {}
    return {
        name: {"value": _shown(name, settings), "source": configuration.source(name)} for name in Settings.model_fields
    }
