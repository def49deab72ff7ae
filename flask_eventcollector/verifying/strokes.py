"""Which fault comes when, by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

#: A worker is killed with ``kill -9``.
WORKER_KILLED = "worker killed"
#: The broker is restarted, by the user's command or as a private node.
BROKER_RESTARTED = "broker restarted"
#: Faults of the network that end within the stroke.
NETWORK = (
    "black hole",
    "confirms dropped",
    "connections cut",
    "connections half closed",
    "network paused",
)

#: The least and the most seconds before a stroke, and that it lasts.
_PAUSE = (0.2, 3.0)
_LASTS = (0.2, 2.5)
#: How many faults of the network also kill a worker meanwhile.
_KILLING = 0.4


class Stroke(NamedTuple):
    """One fault."""

    #: Seconds before it.
    pause: float
    name: str
    #: Seconds that it lasts, if it ends by itself.
    seconds: float
    #: Which worker is killed, from 0 to 1; ``None``: none is.
    victim: float | None


def strokes(seed: int, *, restarts: bool) -> Iterator[Stroke]:
    """The strokes of a seed, always the same, without an end.

    They come in rounds, in which each fault occurs once.

    :param restarts: whether the broker is restarted, too.
    """
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    while True:
        names = [*NETWORK, WORKER_KILLED, *([BROKER_RESTARTED] if restarts else [])]
        dice.shuffle(names)
        for name in names:
            pause, lasts = dice.uniform(*_PAUSE), dice.uniform(*_LASTS)
            victim = dice.random() if _kills(name, dice.random()) else None
            yield Stroke(pause, name, lasts, victim)


def _kills(name: str, share: float) -> bool:
    return name == WORKER_KILLED or (name in NETWORK and share < _KILLING)
