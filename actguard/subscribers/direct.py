"""`Client.reserve_budget` and `Client.settle_budget`: the gateway's budget calls without a scope around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from actguard.events import new_id
from actguard.exceptions import ActGuardUsageError
from actguard.gateway.failures import GatewayFailure
from actguard.gateway.http import Answer, Call
from actguard.gateway.wire import RESERVE_PATH, SETTLE_PATH, ReserveRequest, SettleRequest, granted, raise_if_refused

M = TypeVar("M", bound=BaseModel)


class Sender(Protocol):
    """Whoever can send a request with the retries of reserve and settle."""

    async def send(self, call: Call) -> Answer: ...


async def reserve(link: Sender | None, fields: Mapping[str, Any], key: str | None) -> dict[str, Any]:
    """See `Client.reserve_budget`."""
    body = _checked(ReserveRequest, fields, "reserve_budget")
    return await _send(link, RESERVE_PATH, body.to_json(), key, "reserve")


async def settle(link: Sender | None, fields: Mapping[str, Any], key: str | None) -> dict[str, Any]:
    """See `Client.settle_budget`."""
    body = _checked(SettleRequest, fields, "settle_budget")
    return await _send(link, SETTLE_PATH, body.to_json(), key, "settle")


async def _send(link: Sender | None, path: str, body: bytes, key: str | None, operation: str) -> dict[str, Any]:
    if link is None:
        raise ActGuardUsageError(
            f"{operation}_budget needs a gateway: give the client gateway_url and api_key", field="gateway_url"
        )
    try:
        answer = await link.send(Call(path, body, key=key or new_id()))
        if operation == "reserve":
            granted(answer)
    except GatewayFailure as error:
        failure = error
    else:
        return answer.payload if isinstance(answer.payload, dict) else {}
    # Outside the except block, so that the failure does not hang on to the error as its context.
    raise_if_refused(failure)
    raise failure.as_transport_error(operation)


def _checked(model: type[M], fields: Mapping[str, Any], function: str) -> Any:
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
    field = str(problem["loc"][0]) if problem["loc"] else ""
    where = ".".join(str(part) for part in problem["loc"])
    text = str(problem["msg"]).removeprefix("Input ")
    raise ActGuardUsageError(f"{function}: {where} {text[:1].lower()}{text[1:]}", field=field)
