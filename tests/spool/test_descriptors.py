"""A process that has no file descriptors left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, resource, sys, time
from flask import Flask
from flask_eventcollector import EventCollector
from flask_eventcollector.delivery import delivery
from flask_eventcollector.stores import circuit_breaker
from flask_eventcollector.stores.spool import writer
from flask_eventcollector.testing import FaultInjector

for module in (delivery, writer):
    module.TICK = 0.02
circuit_breaker.PAUSE = 0.02
app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = "memory://"
app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
app.config["EVENTCOLLECTOR_SPOOL_DIR"] = sys.argv[1]
app.debug = True
events = EventCollector(app)
FaultInjector.of(events.broker).go_down()
free = os.dup(0)
os.close(free)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
with events.auto_publish():
    events.enqueue_event(1, "orders")
errors = set()
while len(errors) < 6:
    errors.add(events.stats().spool_error)
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
while not events.stats().spooled:
    time.sleep(0.01)
"""


def test_it_is_logged_once_a_minute_and_recovers_when_there_are_some(
    tmp_path: Path,
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    problems = [line for line in lines if line.startswith("Spool problem: ")]
    # The file that could not be created, and the folder that could not be read, which
    # may come first, before the event is late.
    assert 1 <= len(problems) <= 2
    assert all("Too many open files" in problem for problem in problems)
