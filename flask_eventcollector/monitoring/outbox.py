"""What the metrics tell of the outbox as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple


class OutboxFigures(NamedTuple):
    """What the active relay knows of all rows of the app."""

    #: How many there are, by what they wait for; empty: they were not counted yet.
    rows: Mapping[str, int]
    #: Seconds since the oldest event that is not dead was enqueued; 0: there is none.
    oldest_age: float


#: Returns the figures; ``None``: this process is not the active relay.
Look = Callable[[], OutboxFigures | None]
