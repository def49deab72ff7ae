"""Marks when a gunicorn worker is ready: an earlier signal may be lost."""

import os
from pathlib import Path
from typing import Any


def post_worker_init(worker: Any) -> None:
    """Called by gunicorn in each worker, when it has its signal handlers."""
    Path(os.environ["FLASK_FAULTS_STATS"], f"{worker.pid}.up").touch()
