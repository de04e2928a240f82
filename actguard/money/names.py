"""Model names as price lists know them, without the paths, regions and account numbers that requests carry.

The same model is ``gemini-2.5-pro``, ``models/gemini-2.5-pro`` or
``projects/…/publishers/google/models/gemini-2.5-pro``, and on Bedrock an ARN. What remains after the clean-up is
still the provider's own name of a model: nothing is guessed, and a name that stands for somebody's own deployment
(an endpoint, a tuned or imported model, provisioned throughput) yields no name at all, since such deployments are
not billed like the public model that they may be called after.
"""

from __future__ import annotations

import re

_PUBLISHED = re.compile(r"(?:^|/)publishers/[^/]+/models/([^/]+)$")
_MODELS = re.compile(r"^models/([^/]+)$")
_PRIVATE = re.compile(r"(?:^|/)(?:projects|endpoints|tunedModels)/")
_ARN_OF_A_PUBLIC_MODEL = re.compile(r"^arn:[^:]*:bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/([^/]+)$")
_GEOGRAPHY = re.compile(r"^(?:us-gov|us|eu|apac|ap|au|ca|il|in|jp|me|mx|sa|uk)\.(?=[a-z0-9-]+\.)")
_DATE = re.compile(r"[-@](?:20\d{2}-\d{2}-\d{2}|20\d{6})(?=$|-v\d)")


def listed_names(provider: str, model: str) -> tuple[str, ...]:
    """The names under which a price list may know ``model``, best first; none for a private deployment.

    A Bedrock inference profile for a geography (``us.``, ``eu.``) may be listed under the plain name, which is the
    price of that region. ``global.`` stays: it is billed differently.

    Example: ``listed_names("google", "models/gemini-2.5-pro") == ("gemini-2.5-pro",)``.
    """
    if model.startswith("arn:"):
        match = _ARN_OF_A_PUBLIC_MODEL.match(model)
        if match is None:
            return ()
        model = match[1]
    elif match := _PUBLISHED.search(model) or _MODELS.match(model):
        model = match[1]
    elif _PRIVATE.search(model):
        return ()
    names = [model]
    if model.startswith(f"{provider}/"):  # as routers and OpenAI-compatible endpoints write it
        names.append(model[len(provider) + 1 :])
    if provider == "aws":
        names.append(_GEOGRAPHY.sub("", model))
    return tuple(dict.fromkeys(names))


def undated(model: str) -> str:
    """``model`` without the date of its snapshot.

    Example: ``undated("gpt-4o-2024-08-06") == "gpt-4o"``.
    """
    return _DATE.sub("", model)


def is_fine_tune(model: str) -> bool:
    """True for OpenAI's names of users' fine-tuned models, ``ft:base:organisation::id``."""
    return model.lower().startswith("ft:")
