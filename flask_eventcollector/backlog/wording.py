"""Words for people: amounts of time, of bytes and of things, and untrusted names."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from ..messages.wording import plural
from ..messages.wording import printable as printable

_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def moment_of(seconds: float) -> str:
    """A Unix time with its date, in UTC, for example ``2026-12-01 03:12:45.123Z``."""
    moment = datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    return f"{moment.isoformat(' ', 'milliseconds')}Z"


def age_of(moment: datetime) -> float:
    """Seconds since *moment*."""
    return max(0.0, time.time() - moment.timestamp())


def age(seconds: float | None) -> str:
    """A duration in its largest unit, for example ``5 min``."""
    if seconds is None:
        return "-"
    unit, name = next((a for a in _AGES if seconds >= a[0]), _AGES[-1])
    return f"{seconds // unit:.0f} {name}"


def wait(seconds: float | None) -> str:
    """A time to wait, for example ``in 5 min``; ``-``: not known."""
    if seconds is None:
        return "-"
    return f"in {age(seconds)}" if seconds >= 1 else "now"


def size(count: int) -> str:
    """A number of bytes, for example ``1.5 KiB``."""
    unit, name = next((s for s in _SIZES if count >= s[0]), (1, "B"))
    return f"{count} B" if unit == 1 else f"{count / unit:.1f} {name}"


def number(number: int) -> str:
    """For example ``2 000``."""
    return f"{number:,}".replace(",", " ")


def count(amount: int, noun: str) -> str:
    """For example ``1 file`` or ``2 000 files``; *noun* is a regular singular."""
    return f"{number(amount)} {plural(amount, noun)}"


def events(amount: int) -> str:
    """For example ``1 event`` or ``2 events``."""
    return count(amount, "event")


def visible(value: Any) -> Any:
    """*value* as a page shows it, for Jinja's ``finalize``.

    In a text, what would be invisible or turn it around is escaped; not in markup.
    """
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return printable(value) if is_text else value
