"""Values on their way out."""

from __future__ import annotations

import base64

__all__ = ["as_text"]


def as_text(value: bytes | bytearray | memoryview) -> dict[str, str]:
    """A value as JSON can carry it: text where it is UTF-8, else base64, and which of the two."""
    try:
        return {"encoding": "utf-8", "value": bytes(value).decode("utf-8")}
    except UnicodeDecodeError:
        return {"encoding": "base64", "value": base64.b64encode(value).decode("ascii")}
