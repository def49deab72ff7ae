"""A Celery app whose only task is one unit of work; its messages are files.

``FLASK_FAULTS_TASKS`` names their folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery  # type: ignore[import-untyped]

from tests.faults.app import PREFIX, create, work


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

    return celery


if PREFIX + "TASKS" in os.environ:
    app = _new_worker()
