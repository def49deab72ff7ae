"""Checks what is written down for operators: the history, and the metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..config.settings import Metrics
from ..monitoring.shared_folder import ROOM, VARIABLE
from .case import Case
from .file_systems import existing, free_bytes
from .findings import Finding, ok, problem, warning
from .servers import gunicorn

#: Bytes that a process needs to write a few lines.
_ROOM = 64 << 10


def history(case: Case) -> Iterator[Finding]:
    """Whether EVENTCOLLECTOR_HISTORY_DIR can be written."""
    path = case.config.history_dir
    if path is None:
        return
    why_not = _why_not_write(path)
    if why_not:
        yield problem(
            f"{path}: {why_not}, so 'flask events why', 'tail' and 'top' show nothing",
            "chown it to the user that runs the app, or correct"
            " EVENTCOLLECTOR_HISTORY_DIR",
        )
    elif path.exists() and free_bytes(path) < _ROOM:
        yield problem(
            f"the disk of {path} is full, so the processes can't write there what"
            " happens",
            "free some space, they go on by themselves; restart nothing",
        )
    elif path.exists() and (mode := path.stat().st_mode & 0o777) & 0o022:
        yield warning(
            f"other users can write to {path} (its mode is {mode:o}), and so make up"
            " what 'flask events why', 'tail', 'top' and the dashboard show",
            "chmod 700 it",
        )
    else:
        yield ok(f"{path} can be written")


def metrics(case: Case) -> Iterator[Finding]:
    """Whether metrics reach those who scrape or collect them."""
    chosen = case.config.metrics
    if not chosen:
        return
    found = [*_prometheus()] if Metrics.PROMETHEUS in chosen else []
    if Metrics.OPENTELEMETRY in chosen:
        found += _opentelemetry()
    yield from found or [ok(", ".join(metrics.value for metrics in chosen))]


def _prometheus() -> Iterator[Finding]:
    folder = os.environ.get(VARIABLE)
    workers = gunicorn().workers
    if folder == "":
        yield problem(
            f"{VARIABLE} is empty, so the metrics are written into the working"
            " directory, where no scrape looks for them",
            "set it to an empty folder, or remove it",
        )
    elif folder is None and workers > 1:
        yield problem(
            f"gunicorn has {workers} workers, but {VARIABLE} is not set, so each"
            " scrape shows the metrics of one of them",
            f"set {VARIABLE} to an empty folder before gunicorn starts",
        )
    yield from _shared(Path(folder)) if folder else ()


def _shared(folder: Path) -> Iterator[Finding]:
    """Whether processes can share the *folder*."""
    why_not = _why_not_write(folder)
    if why_not or not folder.exists():
        yield problem(
            f"{VARIABLE} is {folder}: {why_not or 'it does not exist'}, so the app"
            " does not start, or has no metrics",
            "create it before the app starts, for the user that runs it",
        )
    elif free_bytes(folder) < ROOM:
        yield problem(
            f"{VARIABLE} is {folder}, whose disk is full: there, prometheus_client lets"
            " the system kill a process that begins to write (SIGBUS)",
            "free some space",
        )


def _opentelemetry() -> Iterator[Finding]:
    from ..monitoring.opentelemetry import has_provider

    if not has_provider():
        yield warning(
            "no meter provider of OpenTelemetry is set here, so its metrics go nowhere",
            "set one before the first event, or start the app by"
            " opentelemetry-instrument",
        )


def _why_not_write(path: Path) -> str:
    """Why this user can't write into the folder; ``""``: it can, or can create it."""
    try:
        found = existing(path)
    except OSError as error:
        return str(error.strerror)
    if not found.is_dir():
        return f"{found} is not a folder"
    if not os.access(found, os.W_OK | os.X_OK):
        return f"this user (id {os.geteuid()}) may not write to {found}"
    return ""
