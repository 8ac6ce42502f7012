"""The run secret: what the members of one run prove to each other that they know."""

from __future__ import annotations

import base64
import secrets

_BYTES = 32


def new_secret() -> str:
    """Returns a fresh secret of 256 random bits as the line ``stella-secret-1:<base64url>``."""
    text = base64.urlsafe_b64encode(secrets.token_bytes(_BYTES)).decode().rstrip("=")
    return f"stella-secret-1:{text}"
