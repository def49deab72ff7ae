"""A destructor, or a signal handler, may call the library at any moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import unmeasured

SCRIPT = """
import gc, random, sys, threading, time
from flask import Flask
from flask_eventcollector import EventCollector

app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = sys.argv[1]
app.config["EVENTCOLLECTOR_CONFIRM_TIMEOUT"] = 0.01
app.testing = sys.argv[1] == "memory://"
events = EventCollector(app)
handed_over = [0] * 5


class Noisy:
    # In a circle, so that only the garbage collector ends it.
    def __init__(self): self.me = self
    def __del__(self):
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
        while time.monotonic() < end:
            for _ in range(3):
                Noisy()
            with events.auto_publish():
                for n in range(5):
                    events.enqueue_event({"n": n}, "orders")
            gc.set_threshold(random.randrange(1, 60))
            handed_over[number] += 1


end = time.monotonic() + float(sys.argv[2])
threads = [threading.Thread(target=work, args=(n, end), daemon=True) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join(float(sys.argv[2]) + 20)
hung = [thread.name for thread in threads if thread.is_alive()]
if hung:
    import faulthandler; faulthandler.dump_traceback()
    raise SystemExit(f"hung: {hung}")
gc.set_threshold(700)
assert events.flush(20), events.stats()
stats = events.stats()
assert stats.balanced, stats
assert stats.confirmed >= 5 * sum(handed_over), (stats, handed_over)
print(sum(handed_over))
"""


def run(url: str, seconds: float) -> int:
    """The number of units of work done in *seconds*, with noisy destructors."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, url, str(seconds)]
    done = subprocess.run(
        command,
        env=unmeasured(),
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout)


def test_destructors_that_publish_meet_no_lock() -> None:
    assert run("memory://", 3) > 50


@pytest.mark.rabbitmq
def test_destructors_that_publish_meet_no_lock_on_rabbitmq(rabbitmq: object) -> None:
    url: str = rabbitmq.url  # type: ignore[attr-defined]
    rabbitmq.declare("orders")  # type: ignore[attr-defined]
    rabbitmq.declare("finalised")  # type: ignore[attr-defined]
    assert run(url, 3) > 20
