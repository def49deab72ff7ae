"""Ends a run: by signals, and by its deadline."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ..delivery.signal import Signal


class Interrupted(KeyboardInterrupt):
    """The run ends at once, and cleans up."""


@contextmanager
def ending(seconds: float) -> Iterator[Signal]:
    """A signal that the first Ctrl-C sets: the load ends, and what was sent is judged.

    A second one, SIGTERM, and the end of the time raise :exc:`Interrupted` wherever the
    main thread is, which must be the one of the block.

    :param seconds: how long the block may take at most.
    """
    stop = Signal()
    reasons = {
        signal.SIGINT: "it was interrupted twice",
        signal.SIGTERM: "it was told to end",
        signal.SIGALRM: f"it took more than {seconds:.0f} s",
    }

    def on_signal(number: int, frame: object) -> None:
        if number == signal.SIGINT and not stop.is_set():
            stop.set()
            return
        # Whatever comes while it cleans up must not disturb that.
        for each in reasons:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(reasons[signal.Signals(number)])

    before = {each: signal.signal(each, on_signal) for each in reasons}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in before.items():
            signal.signal(each, handler)
