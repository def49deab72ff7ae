"""A destructor, or a signal handler, may call the library at any moment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers import unmeasured

SECONDS = 120.0 if os.environ.get("TEST_CUTS") == "all" else 3.0

SCRIPT = """
import faulthandler, gc, random, sys, threading, time
from flask import Flask
from flask_eventcollector import EventCollector

app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = sys.argv[1]
app.config["EVENTCOLLECTOR_CONFIRM_TIMEOUT"] = 0.01
app.testing = sys.argv[1] == "memory://"
events = EventCollector(app)
handed_over = [0] * 5
alive = set()
faulthandler.dump_traceback_later(float(sys.argv[2]) + 50, exit=True)


class Noisy:
    # In a circle, so that only the garbage collector ends it.
    def __init__(self):
        self.me = self
        alive.add(id(self))
    def __del__(self):
        alive.discard(id(self))
        try:
            choice = random.random()
            events.enqueue_event({"from": "a destructor"}, "finalised")
            if choice < 0.3:
                events.publish()
            elif choice < 0.4:
                events.clear_events_to_publish()
            elif choice < 0.5:
                events.stats()
        except RuntimeError:
            pass  # The interpreter is about to end.


def work(number, end):
    with app.app_context():
        # On a busy machine, it takes longer until there are enough of them.
        while time.monotonic() < end or handed_over[number] < 20:
            # All that have piled up would end at once, perhaps in the broker's thread.
            for _ in range(3):
                if len(alive) < 100:
                    Noisy()
            if handed_over[number] % 500 == 499:
                events.flush(20)  # The broker is slower than four threads.
            with events.auto_publish():
                for n in range(5):
                    events.enqueue_event({"n": n}, "orders")
            gc.set_threshold(random.randrange(1, 60))
            handed_over[number] += 1


end = time.monotonic() + float(sys.argv[2])
threads = [threading.Thread(target=work, args=(n, end), daemon=True) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
gc.set_threshold(700)
assert events.flush(20), events.stats()
stats = events.stats()
assert stats.balanced, stats
assert stats.confirmed >= 5 * sum(handed_over), (stats, handed_over)
print(sum(handed_over))
"""


def run(url: str) -> int:
    """The number of units of work done in :data:`SECONDS`, with noisy destructors."""
    options = ["-W", "ignore", "-X", "faulthandler"]
    command = [sys.executable, *options, "-c", SCRIPT, url, str(SECONDS)]
    done = subprocess.run(
        command,
        env=unmeasured(),
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # An exception in a destructor is only printed.
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    return int(done.stdout)


def test_destructors_that_publish_meet_no_lock() -> None:
    assert run("memory://") > 50


@pytest.mark.rabbitmq
def test_destructors_that_publish_meet_no_lock_on_rabbitmq(rabbitmq: object) -> None:
    url: str = rabbitmq.url  # type: ignore[attr-defined]
    rabbitmq.declare("orders")  # type: ignore[attr-defined]
    rabbitmq.declare("finalised")  # type: ignore[attr-defined]
    assert run(url) > 20
