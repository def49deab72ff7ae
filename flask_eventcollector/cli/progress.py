"""Shows how far a command is."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO

import click

from ..stores.progress import OnProgress
from . import formatting

#: In characters.
_WIDEST = 36
#: Seconds between two lines.
_EVERY = 10.0


@contextmanager
def progress(
    length: int, label: str, amount: Callable[[int], str] = formatting.number
) -> Iterator[OnProgress]:
    """A bar on a terminal, and elsewhere a line on stderr now and then.

    It is told each increment, and 0 in between to show that the command lives.

    :param length: what will be done; 0: not known, so there is no bar.
    :param amount: how a line shows a number of it.
    """
    if not (length and sys.stderr.isatty()):
        yield _Lines(length, label, amount).update
        return
    terminal = _Terminal(sys.stderr)
    with (
        redirect_stderr(terminal.for_others),
        click.progressbar(
            length=length,
            label=label,
            file=terminal.for_bar,
            show_pos=True,
            width=_width(length, label),
        ) as bar,
    ):
        yield bar.update


class _Terminal:
    """Lets a bar and log lines share a terminal: whoever comes begins a new line."""

    def __init__(self, stream: TextIO) -> None:
        #: Whether the bar stands in the last line.
        self.has_bar = False
        self.for_bar: Any = _Stream(stream, self._before_bar)
        self.for_others: Any = _Stream(stream, self._before_others)

    def _before_bar(self, text: str) -> str:
        self.has_bar = not text.endswith("\n")
        return text

    def _before_others(self, text: str) -> str:
        begin = "\n" if self.has_bar else ""
        self.has_bar = False
        return begin + text


class _Stream:
    """A stream that changes what is written.

    A terminal that is gone ends no change halfway.
    """

    def __init__(self, stream: TextIO, change: Callable[[str], str]) -> None:
        self._stream = stream
        self._change = change

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(self._change(text))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _width(length: int, label: str) -> int:
    """How wide the bar itself may be, so that its line fits into the terminal."""
    columns = shutil.get_terminal_size().columns
    numbers = f"{length}/{length}  00:00:00"
    return max(1, min(_WIDEST, columns - len(f"{label}  []  {numbers} ")))


class _Lines:
    """A line now and then; none if the command takes only seconds."""

    def __init__(self, length: int, label: str, amount: Callable[[int], str]) -> None:
        self._of = f" of {amount(length)}" if length else ""
        self._label = label
        self._amount = amount
        self._done = 0
        self._began = time.monotonic()
        self._next = self._began + _EVERY

    def update(self, more: int) -> None:
        """Note that so much *more* is done."""
        self._done += more
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        age = formatting.age(now - self._began)
        done = self._amount(self._done)
        # A disk that is full ends no change halfway.
        with suppress(OSError):
            click.echo(f"{self._label}: {done}{self._of} after {age}", err=True)
