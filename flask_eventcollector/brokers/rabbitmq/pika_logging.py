"""Keeps pika's log records about the library's connection out of the app's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ...delivery.threads import PerThread


class _Own:
    """What each thread knows about itself."""

    is_silenced = False


class _ThreadFilter(logging.Filter):
    """Suppresses what silenced threads log."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = PerThread(_Own)

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.thread.get().is_silenced


_filter = _ThreadFilter()


def silence_pika_in_this_thread() -> None:
    """Suppress what pika logs in this thread until the thread ends.

    pika logs several errors and a traceback for each failed connection attempt. The
    library reports the same in one record a minute. The app's own use of pika, in other
    threads, is not affected.
    """
    _filter.thread.get().is_silenced = True
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
        _filter.thread.get().is_silenced = False
