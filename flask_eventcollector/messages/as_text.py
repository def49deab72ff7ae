"""Writes values as text that JSON or the consumers of other languages do not have."""

from __future__ import annotations

import uuid
from datetime import date, time
from decimal import Decimal
from typing import Any


def as_text(value: Any) -> str | None:
    """The text for a date, a time, a UUID or a finite Decimal; ``None``: another value.

    It is the same in a payload and in a header.
    """
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, uuid.UUID) or (
        isinstance(value, Decimal) and value.is_finite()
    ):
        return str(value)
    return None
