"""Keeps pika's log records about the library's connection out of the app's log."""

from __future__ import annotations

import logging
import threading


class _ThreadFilter(logging.Filter):
    """Suppresses what registered threads log."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        return threading.get_ident() not in self.threads


_filter = _ThreadFilter()


def silence_pika_in_this_thread() -> None:
    """Suppress what pika logs in this thread from now on.

    pika logs several errors and a traceback for each failed connection attempt. The
    library reports the same in one record a minute. The app's own use of pika, in other
    threads, is not affected.
    """
    _filter.threads.add(threading.get_ident())
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "pika":
            logging.getLogger(name).addFilter(_filter)


def restore_pika_in_this_thread() -> None:
    """Undo the above, since the thread's identifier may be reused."""
    _filter.threads.discard(threading.get_ident())
