"""gevent patches Python after the app was loaded, as gunicorn does with --preload."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import unmeasured

pytest.importorskip("gevent")

#: Loads an app, and patches then.
APP = """
import sys
from flask import Flask
from flask_eventcollector import EventCollector
app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = sys.argv[1]
app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
app.config["EVENTCOLLECTOR_SPOOL_DIR"] = sys.argv[2]
events = EventCollector(app)

from gevent.monkey import patch_all
patch_all()
import gevent

def publish_two(read):
    # The library's threads, which are greenlets now, have begun with the first one.
    for number in range(2):
        events.enqueue_event(number, "q")
        result = events.publish()
        yield read(result)
        gevent.sleep(0.1)
"""
NOBODY = "amqp://127.0.0.1:1"


def printed(folder: Path, url: str, code: str) -> str:
    """What *code* prints in such a process."""
    run = subprocess.run(
        [sys.executable, "-c", APP + code, url, str(folder / "spool")],
        capture_output=True,
        text=True,
        timeout=60,
        env=unmeasured(),
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_publish_waits_for_the_confirms(tmp_path: Path) -> None:
    code = "print(*publish_two(lambda result: result.confirmed))"
    assert printed(tmp_path, "memory://", code) == "1 1"


def test_what_is_published_is_on_disk(tmp_path: Path) -> None:
    code = "print(*publish_two(lambda result: events.stats().spooled))"
    assert printed(tmp_path, NOBODY, code) == "1 2"


def test_each_greenlet_has_a_collector_of_its_own(tmp_path: Path) -> None:
    code = """
def collect():
    events.enqueue_event(1, "q")
    gevent.sleep(0.1)
    return events.clear_events_to_publish()

jobs = [gevent.spawn(collect) for _ in range(2)]
print(*(job.get() for job in jobs))
"""
    assert printed(tmp_path, "memory://", code) == "1 1"
