"""A Celery app whose only task is one unit of work; its messages are files.

``FLASK_FAULTS_TASKS`` names their folder. With ``FLASK_FAULTS_CLOSES``, a child process
closes the event collector when it ends, since Python's exit handlers do not run there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery, signals  # type: ignore[import-untyped]

from tests.faults.app import PREFIX, create, work, write_books

#: Seconds that a child may take for its last flush.
CLOSE_TIMEOUT = 2.0


def new_celery(folder: Path | str) -> Any:
    """A Celery app that needs no server."""
    folders = {f"data_folder_{way}": f"{folder}/messages" for way in ("in", "out")} | {
        "control_folder": f"{folder}/control",
        "processed_folder": f"{folder}/done",
    }
    for name in folders.values():
        Path(name).mkdir(parents=True, exist_ok=True)
    celery = Celery("faults", broker="filesystem://")
    celery.conf.broker_transport_options = folders
    return celery


def _new_worker() -> Any:
    flask_app, events = create()
    celery = new_celery(os.environ[PREFIX + "TASKS"])

    @celery.task(name="place")  # type: ignore[untyped-decorator]
    def place(order: int, number: int) -> None:
        with flask_app.app_context():
            work(events, order, number)

    def close(**about: Any) -> None:
        events.close(CLOSE_TIMEOUT)
        write_books(events)

    if os.environ.get(PREFIX + "CLOSES"):
        signals.worker_process_shutdown.connect(close, weak=False)
    return celery


if PREFIX + "TASKS" in os.environ:
    app = _new_worker()
