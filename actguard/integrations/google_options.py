"""What the user adds to a request to Google's GenAI API: the options of the call, before those of the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actguard.integrations.google_bound import limited

DEFAULT_ATTEMPTS = 5
"""How often the SDK tries when it is asked to retry and not told how often."""
_BODY, _OPTIONS = 2, 3


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    """An argument of the SDK's method, however it was passed."""
    return args[position] if len(args) > position else kwargs.get(name)


def http_options(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The options of this call."""
    return argument(args, kwargs, _OPTIONS, "http_options")


def extra_body(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the user adds to the body of the request; it wins over what the SDK put there."""
    for options in (http_options(args, kwargs), getattr(client, "_http_options", None)):
        extra = _option(options, "extra_body")
        if isinstance(extra, Mapping):
            return extra
    return {}


def attempts(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How often the SDK sends a request whose answer does not come; once, unless it was asked to retry."""
    for options in (http_options(args, kwargs), getattr(client, "_http_options", None)):
        retry = _option(options, "retry_options")
        if retry is not None:
            number = _option(retry, "attempts")
            return DEFAULT_ATTEMPTS if number is None else max(number, 1)
    return 1


def limits_for_all(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """True when the client's own options configure the generation of each call, where one call cannot change it."""
    own = _option(http_options(args, kwargs), "extra_body")
    extra = extra_body(client, args, kwargs)
    return extra is not own and any(name in extra for name in ("generationConfig", "generation_config"))


def with_limit(
    args: tuple[Any, ...], kwargs: dict[str, Any], body: Mapping[str, Any], tokens: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments, with an output limit in the body and in what the user adds to it."""
    args, kwargs = _replaced(args, kwargs, _BODY, "request_dict", limited(body, tokens))
    options = http_options(args, kwargs)
    extra = _option(options, "extra_body")
    if not isinstance(extra, Mapping) or not any(name in extra for name in ("generationConfig", "generation_config")):
        return args, kwargs
    changed = {"extra_body": limited(extra, tokens)}
    options = {**options, **changed} if isinstance(options, Mapping) else options.model_copy(update=changed)
    return _replaced(args, kwargs, _OPTIONS, "http_options", options)


def _replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) > position:
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _option(options: Any, name: str) -> Any:
    return options.get(name) if isinstance(options, Mapping) else getattr(options, name, None)
