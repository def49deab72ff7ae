"""What happens if a command can't write its output."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

#: Of a full disk, for example. A closed pipe is no failure: click ends quietly then.
_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def output_errors_shown() -> Iterator[None]:
    """Show without a traceback why the output can't be written.

    Commands write it once they have done what they do.
    """
    try:
        yield from _flushed()
    except OSError as error:
        if error.errno not in _FAILURES or error.filename is not None:
            raise
        discard_output()
        raise click.ClickException(
            f"Can't write the output: {error.strerror}. What the command had to change"
            " is changed"
        ) from None


def _flushed() -> Iterator[None]:
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def discard_output() -> None:
    """Let the interpreter not try again at its end to write what is left."""
    # In a test, the output is no file.
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
