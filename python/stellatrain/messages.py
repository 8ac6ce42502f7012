"""What members tell each other in JSON, beside the payloads (docs/wire.md, "Messages in JSON")."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from stellatrain import _core
from stellatrain.errors import error


def exchanged(
    session: _core.Session, tag: str, mine: Any, check: Callable[[Any], object] = lambda _: None
) -> list[Any]:
    """Every member's `mine`, by rank. Collective.

    check: raises for what no member sends, a ValueError or whatever comes of using it as if it were sound.
    Raises Error("protocol") that names the member if it does, or if that member's message is no JSON.
    """
    messages = []
    for rank, raw in enumerate(session.all_gather(tag, json.dumps(mine).encode())):
        try:
            messages.append(json.loads(raw))
            check(messages[-1])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as cause:
            raise error(
                "protocol",
                f"{session.describe(rank)} sent in '{tag}' what no member of this version sends: {cause}",
            ) from cause
    return messages


def require(condition: object, wanted: str) -> None:
    """For `check`."""
    if not condition:
        raise ValueError(f"it is not {wanted}")
