"""Writes and reads times as RFC 3339 has them.

https://www.rfc-editor.org/rfc/rfc3339#section-5.6
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

#: Some publishers write nanoseconds.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def time_as_text(time: datetime) -> str:
    """*time*, which is aware of its time zone, in UTC."""
    return time.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def time_from_text(text: str) -> datetime | None:
    """The time that *text* says, aware of its time zone; ``None``: it says none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    day, seconds, fraction, zone = found.groups(default="0")
    offset = "+00:00" if zone in "Zz" else zone
    try:
        # Before Python 3.11, it needs six digits and no "Z".
        return datetime.fromisoformat(f"{day}T{seconds}.{fraction:<06}{offset}")
    except ValueError:
        return None
