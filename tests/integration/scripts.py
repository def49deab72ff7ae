"""Scripts in processes of their own, whose app has the spool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

APP = """
import os, signal, sys, time
from flask import Flask
from flask_eventcollector import EventCollector
from flask_eventcollector.testing import FaultInjector

url, folder, queue, label = sys.argv[1:]
app = Flask("app")
app.config.from_prefixed_env()
app.config["EVENTCOLLECTOR_BROKER_URL"] = url
app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
app.config["EVENTCOLLECTOR_SPOOL_DIR"] = folder
app.config["EVENTCOLLECTOR_QUEUES"] = {queue: {}}
events = EventCollector(app)

def die_once_on_disk(number):
    # A call waits for the disk for a second, which may not be enough.
    while events.stats().spooled < number:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""

#: Leaves the events [label, 0] to [label, 49] on disk.
KILLED = """
FaultInjector.of(events.broker).go_down()
with events.auto_publish():
    for place in range(50):
        events.enqueue_event([label, place], queue)
die_once_on_disk(50)
"""


def left_by(label: str) -> list[list[str | int]]:
    """The payloads that the script KILLED leaves."""
    return [[label, place] for place in range(50)]


def run(
    code: str, url: str, folder: Path, queue: str, label: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run *code* after the app's; waits for its end."""
    return subprocess.run(
        [sys.executable, "-c", APP + code, url, str(folder), queue, label],
        capture_output=True,
        text=True,
        timeout=60,
    )
