"""Finds the line of code that enqueued an event."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

#: The packages between the user's code and a signal receiver.
_MACHINERY = ("flask_eventcollector", "blinker")


class Origin(NamedTuple):
    """A line of code."""

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{_short(self.path)}:{self.line} in {self.function}"


def origin_of_call() -> Origin | None:
    """The innermost line outside of the machinery; ``None``: there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _package(frame) in _MACHINERY:
        frame = frame.f_back
    if frame is None:
        return None
    return Origin(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _short(path: str) -> str:
    """*path*, relative to the current directory if it is inside."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
