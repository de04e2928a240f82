"""Calls of the OpenAI API whose cost cannot be counted: they have no price per call, or are billed elsewhere.

A scope whose limits are hard, or a client with ``on_unpriced="raise"``, refuses them; others are warned once, by the
name given here. What only looks at such things, changes their settings or ends them is free.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNCOUNTED = {
    "fine-tuning jobs": r"fine_tuning/jobs(?:/[^/]+/resume)?",
    "graders": r"fine_tuning/alpha/graders/run",
    "videos": r"videos(?:/edits|/extensions|/[^/]+/remix)?",
    "containers": r"containers",
    "files in vector stores": r"vector_stores|vector_stores/[^/]+/(?:files|file_batches)",
    "vector store searches": r"vector_stores/[^/]+/search",
    "eval runs": r"evals/[^/]+/runs",
    "ChatKit sessions": r"chatkit/sessions",
    "realtime sessions held elsewhere": (
        r"realtime/(?:translations/)?client_secrets|realtime/(?:transcription_)?sessions"
        r"|realtime/(?:translations/)?calls(?:/[^/]+/accept)?"
    ),
    "live sessions held elsewhere": r"live/sessions(?:/[^/]+/(?:accept|fork))?",
    "managed agents": r"agents/sessions(?:/[^/]+/events)?|agents/automations(?:/[^/]+/(?:invocations|resume))?",
    "agent environments": r"agents/environments",
}
_ONE_OF = re.compile(
    r"(?:^|/)(?:" + "|".join(f"(?P<_{n}>{pattern})" for n, pattern in enumerate(_UNCOUNTED.values())) + r")$"
)
_NAMES = tuple(_UNCOUNTED)


def uncounted_surface(path: str, body: object = None) -> str | None:
    """What a POST to ``path`` asks for, in the plural, when its cost cannot be counted; None for any other path.

    Example: ``uncounted_surface("videos/video_1/remix") == "videos"``.
    """
    found = _ONE_OF.search(path)
    if path.endswith("vector_stores") and not (isinstance(body, Mapping) and body.get("file_ids")):
        return None  # an empty store costs nothing
    return None if found is None or found.lastgroup is None else _NAMES[int(found.lastgroup[1:])]
