"""What processes write down, for the commands that read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..events import Target
from ..monitoring.history.reader import History
from ..monitoring.history.records import Line
from ..stores.spool.admin.reading import Unreadable
from . import formatting
from .context import app_name, app_state
from .exit_codes import Failure


@contextmanager
def reading() -> Iterator[History]:
    """What the processes write down.

    :raises Failure: they don't, or the folder can't be read, or not any more.
    """
    folder = app_state().config.history_dir
    if folder is None:
        raise Failure(
            "EVENTCOLLECTOR_HISTORY_DIR is not set, so no process writes down what"
            " happens: set it to a folder, for the workers, too"
        )
    history = History(folder, app_name())
    try:
        history.paths_of_lines()
        yield history
    except OSError as error:
        if error.filename != str(folder):
            # What is written to may be closed.
            raise
        raise Failure(
            f"Can't read the folder {folder}: {error.strerror}. No process has written"
            " to it yet, it was removed, or it belongs to another user"
        ) from error


def no_folder(folder: Path) -> str:
    return f"{folder} does not exist, so no process has written to it yet"


def problems_of(history: History) -> list[Unreadable]:
    """What could not be read so far."""
    return [Unreadable(path, why) for path, why in history.problems.items()]


def line_as_text(line: Line, *, with_ids: bool = True) -> str:
    target = str(Target(line.exchange, line.queue)) if line.queue else ""
    parts = [
        formatting.moment_of(line.at),
        str(line.pid),
        line.what,
        target,
        *_details(line),
    ]
    if with_ids and line.ids:
        more = f" +{len(line.ids) - 1}" if len(line.ids) > 1 else ""
        parts.append(f"{line.ids[0]}{more}")
    return formatting.printable("  ".join(filter(None, parts)))


def _details(line: Line) -> Iterator[str]:
    if line.attempt:
        yield f"attempt {line.attempt}"
    if line.outcome:
        yield line.outcome
    if line.what in ("confirmed", "unrouted"):
        yield f"after {line.elapsed:.3f} s"
    if line.reason:
        yield line.reason
    if line.where:
        yield f"by {line.where}"
