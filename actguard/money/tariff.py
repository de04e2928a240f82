"""Cost units (CU): what a ``cost_limit`` counts in.

Without a gateway a call costs its price in USD times 1,000, rounded up once to a whole CU (`usd_to_cu`). A gateway
may answer with a tariff of its own (``GET /api/v1/cu-tariff``): CU per thousand or million tokens, by provider and
model, where each of a call's three parts (input, cached input, output) is rounded up to a whole CU.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from actguard.money.amounts import MONEY, as_written
from actguard.money.names import listed_names, undated
from actguard.money.usage import Usage

CU_PER_USD = 1000
"""Cost units to the dollar where no tariff says otherwise."""


def usd_to_cu(usd: Decimal, cu_per_usd: int = CU_PER_USD) -> int:
    """``usd`` in whole cost units, rounded up once: no cost is too small to count, and nothing counts as zero.

    Raises:
        ValueError: ``usd`` is negative, NaN or infinite.

    Example: ``usd_to_cu(Decimal("0.0021")) == 3``.
    """
    if not usd.is_finite() or usd < 0:
        raise ValueError("usd must be a finite amount and not negative")
    numerator, denominator = usd.as_integer_ratio()  # in whole numbers, so that no digit is lost on the way
    return -(-numerator * cu_per_usd // denominator)


def _rounded_up(amount: Decimal, times: int, per: int) -> int:
    """``amount * times / per``, rounded up. In whole numbers, so that no digit is lost on the way."""
    numerator, denominator = amount.as_integer_ratio()
    return -(-numerator * times // (denominator * per))


def _rate(value: object) -> Decimal:
    if isinstance(value, str):
        raise ValueError("must be a number, not a string")  # noqa: TRY004  pydantic collects ValueErrors
    return as_written(value)


Rate = Annotated[Decimal, BeforeValidator(_rate)]
"""CU per so many tokens: a JSON number, read as written; not negative."""


class _Part(BaseModel):
    """Unknown fields are let through where they cannot change a cost."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)


class DefaultRates(_Part):
    """What models cost that the tariff does not list."""

    model_config = ConfigDict(extra="forbid")

    input_cu_per_1k: Rate
    output_cu_per_1k: Rate
    cached_cu_per_1k: Rate


class ModelRates(_Part):
    """What one model costs.

    An unknown field is refused, as it may be a charge that would go uncounted. A missing ``output_cu_per_1k`` means
    the tariff's default for output; a missing ``cached_cu_per_1k`` means that cached input costs what input costs.
    """

    model_config = ConfigDict(extra="forbid")

    input_cu_per_1k: Rate | None = None
    input_cu_per_1m: Rate | None = None
    output_cu_per_1k: Rate | None = None
    cached_cu_per_1k: Rate | None = None

    @model_validator(mode="after")
    def _one_input_rate(self) -> Self:
        if (self.input_cu_per_1k is None) == (self.input_cu_per_1m is None):
            raise ValueError("needs either input_cu_per_1k or input_cu_per_1m, and not both")
        return self

    @property
    def per_1k_input(self) -> Decimal:
        """CU per thousand input tokens, whichever way the tariff puts it."""
        if self.input_cu_per_1k is not None:
            return self.input_cu_per_1k
        assert self.input_cu_per_1m is not None  # or the model would not have validated
        return self.input_cu_per_1m.scaleb(-3, MONEY)


class ProviderRates(_Part):
    """The models of one provider, by name."""

    models: dict[str, ModelRates] = Field(default_factory=dict)


class LlmRates(_Part):
    """Token rates: the default, and by provider and model."""

    default: DefaultRates
    providers: dict[str, ProviderRates] = Field(default_factory=dict)


class Tariff(_Part):
    """A gateway's tariff. ``Tariff.model_validate(answer)`` reads one.

    Raises:
        pydantic.ValidationError: (a ValueError) a field is missing, of a wrong type or negative, a model has no input
            rate or two, or an unknown rate. The message does not show values.

    Example::

        tariff = Tariff.model_validate(answer)
        tariff.cost("openai", "gpt-4o-2024-08-06", Usage(uncached_input_tokens=1200, output_tokens=80))
    """

    tariff_version: str
    cu_per_usd: PositiveInt
    registry_version: str
    llm: LlmRates
    tools: dict[str, NonNegativeInt] = Field(default_factory=dict)

    def cost(self, provider: str, model: str, usage: Usage, *, requested: str | None = None) -> int:
        """What a call costs in CU: input, cached input and output, each rounded up to a whole CU.

        Input is everything that was not read from the cache, cache writes included. A model is found by its name in
        the answer or in the request, with or without the path around it and the date of its snapshot; any other costs
        the default.
        """
        listed = self._listed(provider, model)
        if listed is None and requested is not None:
            listed = self._listed(provider, requested)
        input_rate, cached_rate, output_rate = self._per_1k(listed)
        cached = usage.cached_input_tokens
        return (
            _rounded_up(input_rate, usage.input_tokens - cached, 1000)
            + _rounded_up(cached_rate, cached, 1000)
            + _rounded_up(output_rate, usage.output_tokens, 1000)
        )

    def _listed(self, provider: str, model: str) -> ModelRates | None:
        if provider not in self.llm.providers:
            return None
        models = self.llm.providers[provider].models
        names = [model, *listed_names(provider, model)]
        return next((models[name] for name in [*names, *map(undated, names)] if name in models), None)

    def _per_1k(self, listed: ModelRates | None) -> tuple[Decimal, Decimal, Decimal]:
        """CU per thousand input, cached input and output tokens."""
        default = self.llm.default
        if listed is None:
            return default.input_cu_per_1k, default.cached_cu_per_1k, default.output_cu_per_1k
        return (
            listed.per_1k_input,
            listed.per_1k_input if listed.cached_cu_per_1k is None else listed.cached_cu_per_1k,
            default.output_cu_per_1k if listed.output_cu_per_1k is None else listed.output_cu_per_1k,
        )

    def tool_cost(self, tool: str) -> int:
        """What one call of ``tool`` costs in CU; zero for a tool that the tariff does not list."""
        return self.tools.get(tool, 0)
