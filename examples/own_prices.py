"""Own prices: for a deployment that no price list knows, for negotiated rates, for a model of your own.

Amounts are in USD per million tokens and are read as they are written. A name may be a model, "provider:model", or a
pattern; own prices come before the price list. What has no price at all can be refused before it is sent.

Run it:    python examples/own_prices.py          (offline: a scripted provider on this machine)
For real:  use `openai.AzureOpenAI(...)` in place of `provider.azure()`, and name your own deployment.
"""

from __future__ import annotations

import actguard
from actguard import Price
from actguard.testing import Answer, LoopbackProvider

PRICES = {
    "azure:support-desk": Price(input_per_mtok="0.60", output_per_mtok="3.60", cached_input_per_mtok="0.06"),
    "house-llm-*": Price(input_per_mtok="0.05", output_per_mtok="0.05", per_request="0.0001"),
}


def main() -> None:
    answer = Answer(text="Done.", input_tokens=10_000, cached_input_tokens=8_000, output_tokens=500)
    deployments = {"support-desk": "support-desk"}  # Azure answers with the model behind the deployment
    with (
        LoopbackProvider(default=answer, azure_deployments=deployments) as provider,
        actguard.Client(prices=PRICES, on_unpriced="raise") as client,
    ):
        azure, house = provider.azure(), provider.openai()
        with client.run(), client.budget_guard(usd_limit=1) as budget:
            azure.chat.completions.create(model="support-desk", messages=[{"role": "user", "content": "Hello"}])
            house.chat.completions.create(model="house-llm-7b", messages=[{"role": "user", "content": "Hello"}])
            try:
                house.chat.completions.create(model="mystery", messages=[{"role": "user", "content": "Hello"}])
            except actguard.GuardError as refusal:
                print(f"refused ({refusal.code}): {refusal}")
        for row in budget.breakdown():
            print(f"{row.provider}:{row.model}: {row.calls} call, {row.usd:.6f} USD")
        print(f"total: {budget.usd_used:.6f} USD")


main()
