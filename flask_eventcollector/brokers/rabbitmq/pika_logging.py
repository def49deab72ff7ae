"""Keeps pika's log records about the library's connection out of the app's log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _ThreadFilter(logging.Filter):
    """Suppresses what silenced threads log."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not hasattr(self.thread, "is_silenced")


_filter = _ThreadFilter()


def silence_pika_in_this_thread() -> None:
    """Suppress what pika logs in this thread until the thread ends.

    pika logs several errors and a traceback for each failed connection attempt. The
    library reports the same in one record a minute. The app's own use of pika, in other
    threads, is not affected.
    """
    _filter.thread.is_silenced = True
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "pika":
            logging.getLogger(name).addFilter(_filter)


@contextmanager
def pika_silenced() -> Iterator[None]:
    """The same during a block."""
    silence_pika_in_this_thread()
    try:
        yield
    finally:
        del _filter.thread.is_silenced
