"""Real signals, whose handler raises, while the main thread publishes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.helpers import unmeasured
from tests.rabbitmq import RabbitMQNode

SECONDS = 8.0 if os.environ.get("TEST_CUTS") == "all" else 2.0

SCRIPT = """
import contextvars, json, random, signal, sys, time
from flask import Flask
from flask_eventcollector import EventCollector

app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = sys.argv[1]
app.testing = sys.argv[1] == "memory://"
events = EventCollector(app)
client = app.test_client()


class Stop(BaseException):
    pass


armed = False


def stop(*_about):
    # Another thread may take the signal, and be late with it.
    if armed:
        raise Stop


@app.get("/order")
def order():
    enqueue()
    return "done"


def enqueue():
    for number in range(3):
        events.enqueue_event(number, "orders")


def request():
    # Flask itself may leave its context pushed, which is then gone with this one.
    contextvars.copy_context().run(client.get, "/order")


def block():
    with events.auto_publish():
        enqueue()


def publish():
    enqueue()
    events.publish()


def clear():
    enqueue()
    events.clear_events_to_publish()


WORK = [request, block, publish, clear, lambda: events.flush(1)]


def is_cut(work, latest):
    global armed
    try:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, latest))
            work()
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        return True
    except Exception as error:
        # Flask's own clean-up may fail then.
        assert isinstance(error.__context__, Stop), error
        return True
    return False


signal.signal(signal.SIGALRM, stop)
publish()
cuts, slowest, end = 0, 0.0, time.monotonic() + float(sys.argv[2])
# On a busy machine, it takes longer until there are enough of them.
while time.monotonic() < end or cuts < 20:
    for work in WORK:
        began = time.monotonic()
        work()
        cuts += is_cut(work, 2 * (time.monotonic() - began))
    began = time.monotonic()
    publish()
    slowest = max(slowest, time.monotonic() - began)
    result = events.publish(20)
    assert result.retained == result.in_flight == 0, events.stats()
assert events.flush(20), events.stats()
end = time.monotonic() + 20
stats = events.stats()
while stats.confirmed + stats.discarded < stats.enqueued and time.monotonic() < end:
    time.sleep(0.1)  # Until the flusher's next tick.
    stats = events.stats()
assert stats.balanced and not (stats.collected or stats.dead or stats.dropped), stats
assert stats.confirmed + stats.discarded == stats.enqueued, stats
print(json.dumps([cuts, slowest, stats.confirmed]))
"""


def run(url: str) -> tuple[int, float, int]:
    """How many cuts there were, the slowest good request, and what was confirmed."""
    command = [sys.executable, "-X", "faulthandler", "-c", SCRIPT, url, str(SECONDS)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SECONDS + 90,
        env=unmeasured(),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # An exception in a destructor or a callback of the library would be lost.
    assert "flask_eventcollector" not in done.stderr, done.stderr[-4000:]
    cuts, slowest, confirmed = json.loads(done.stdout)
    return cuts, slowest, confirmed


def test_with_the_memory_broker_nothing_is_stuck() -> None:
    cuts, slowest, _ = run("memory://")
    assert cuts >= 20
    assert slowest < 5


def test_with_rabbitmq_nothing_is_stuck_or_lost(rabbitmq: RabbitMQNode) -> None:
    rabbitmq.declare("orders")
    cuts, slowest, confirmed = run(rabbitmq.url)
    assert cuts >= 20
    assert slowest < 5
    assert len({message.id for message in rabbitmq.get_all("orders")}) >= confirmed
