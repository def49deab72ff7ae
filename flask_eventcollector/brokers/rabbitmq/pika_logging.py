"""Keeps pika's own log lines about our connection out of the app's log."""

from __future__ import annotations

import logging
import threading


class _NotFromHere(logging.Filter):
    """Drops what is logged in the threads that were registered."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        return threading.get_ident() not in self.threads


_filter = _NotFromHere()


def silence_pika_in_this_thread() -> None:
    """Drop what pika logs in this thread from now on.

    pika logs several errors and a traceback for each connect that fails, once a backoff
    step for as long as the broker is away; we say the same in one line a minute. What
    the app does with pika in its own threads is left alone.
    """
    _filter.threads.add(threading.get_ident())
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "pika":
            logging.getLogger(name).addFilter(_filter)


def restore_pika_in_this_thread() -> None:
    """Its identifier may be given to another thread."""
    _filter.threads.discard(threading.get_ident())
