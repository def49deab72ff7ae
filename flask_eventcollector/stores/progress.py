"""How far a change of many events is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with each increment of what is done.
OnProgress = Callable[[int], object]


def ignore(increment: int) -> None:
    """Nobody wants to know."""
