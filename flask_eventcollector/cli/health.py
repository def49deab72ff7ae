"""Tells others that a relay works: by the time of a file, or over HTTP."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from .answering import Answer
from .exit_codes import Failure

_WRITE_EVERY = 1.0


def health_answer(word: str) -> Answer:
    """What to answer; *word*: what a process that works says of itself, or ``""``."""
    return Answer(f"{word or 'unhealthy'}\n".encode(), 200 if word else 503)


class HealthFile:
    """A file that is written as long as the process works.

    :raises Failure: it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0
        try:
            path.touch()
        except OSError as error:
            raise Failure(
                f"Can't write the health file {path}: {error.strerror}. Choose a file"
                " in a folder that this user may write to"
            ) from error

    def write(self, word: str) -> None:
        """Write it anew, unless *word* is empty: once a second at most.

        A disk that fails is ignored.
        """
        now = time.monotonic()
        if word and now >= self._next:
            self._next = now + _WRITE_EVERY
            with suppress(OSError):
                self._path.write_text(f"{word}\n")

    def remove(self) -> None:
        """The process ends."""
        with suppress(OSError):
            self._path.unlink()
