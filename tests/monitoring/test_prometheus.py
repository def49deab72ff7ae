"""The metrics for Prometheus: right in one process and in gunicorn's several."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, multiprocess

from flask_eventcollector import ConfigurationError, Outcome, Stats
from flask_eventcollector.config import settings
from flask_eventcollector.monitoring import prometheus
from flask_eventcollector.monitoring.outbox import OutboxFigures
from flask_eventcollector.monitoring.prometheus import (
    PrometheusMetrics,
    PrometheusOutbox,
)
from tests.helpers import Shop, unmeasured, wait_until


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A shop whose series no other test has."""
    shop = Shop(name=f"shop-{uuid.uuid4()}", METRICS="prometheus", QUEUES={"q": {}})
    yield shop
    shop.events.close(0)


def value(shop: Shop, name: str, **labels: str) -> float:
    """The value of one series of the shop."""
    registry = prometheus_client.REGISTRY
    found = registry.get_sample_value(name, {"app": shop.name, **labels})
    return 0.0 if found is None else found


def events(shop: Shop, outcome: str) -> float:
    return value(shop, "eventcollector_events_total", outcome=outcome)


def held(shop: Shop, state: str) -> float:
    return value(shop, "eventcollector_held_events", state=state)


def test_the_counters_are_the_books(shop: Shop) -> None:
    shop.enqueue(1, 2, 3)
    shop.events.publish()
    shop.enqueue(4)
    shop.events.clear_events_to_publish()
    shop.events.close(1)
    counted = {name: events(shop, name) for name in ("confirmed", "discarded")}
    assert counted == {"confirmed": 3, "discarded": 1}
    assert events(shop, "enqueued") == 4
    assert events(shop, "dropped") == 0


def test_what_has_not_happened_is_counted_as_0(shop: Shop) -> None:
    """Prometheus sees no growth in a series that begins with it."""
    shop.enqueue(1)
    shop.events.close(1)
    found = prometheus_client.REGISTRY.get_sample_value
    app = {"app": shop.name}
    assert found("eventcollector_events_total", app | {"outcome": "dropped"}) == 0
    assert found("eventcollector_reconnects_total", app) == 0
    assert found("eventcollector_lease_lost_total", app) == 0


def test_what_no_queue_need_get_is_counted_apart() -> None:
    shop = Shop(
        name=f"shop-{uuid.uuid4()}",
        METRICS="prometheus",
        EXCHANGES={"news": {"type": "topic", "unrouted": "discard"}},
        QUEUES={"q": {"bind": ["news:q"]}},
    )
    shop.events.enqueue_event(1, "nobody.hears", exchange="news")
    shop.events.publish()
    shop.events.close(1)
    assert (events(shop, "unrouted"), events(shop, "confirmed")) == (1, 0)
    name = "eventcollector_publish_seconds_count"
    assert value(shop, name, queue="other") == 1


def test_what_is_held_is_shown_within_a_second(shop: Shop) -> None:
    shop.enqueue(0)
    shop.events.publish()
    shop.faults.go_down("no route to host")
    shop.enqueue(1, 2)
    shop.events.publish()
    shop.enqueue(3)
    wait_until(lambda: held(shop, "retained") == 2, "two are retained")
    assert held(shop, "collected") == 1
    # Nothing is on disk.
    assert held(shop, "at_risk") == 2
    assert value(shop, "eventcollector_broker_ready") == 0
    assert value(shop, "eventcollector_oldest_event_age_seconds") > 0
    shop.faults.come_up()
    wait_until(lambda: held(shop, "retained") == 0, "all are delivered")
    assert value(shop, "eventcollector_broker_ready") == 1
    wait_until(lambda: value(shop, "eventcollector_reconnects_total") == 1, "once more")


def test_what_is_on_disk_or_in_the_outbox_is_at_no_risk() -> None:
    shop = Shop(name=f"shop-{uuid.uuid4()}")
    stats = Stats(enqueued=9, in_flight=1, retained=8, spooled=2, committed=4)
    PrometheusMetrics(shop.name, ()).observe([], stats)
    assert held(shop, "spooled") == 6
    assert held(shop, "at_risk") == 3


def test_refusals_are_counted_by_outcome(shop: Shop) -> None:
    shop.faults.refuse("q", Outcome.NACKED)
    shop.enqueue(1, 2)
    shop.events.publish()
    shop.events.close(0)
    assert (
        value(shop, "eventcollector_refusals_total", queue="q", outcome="nacked") >= 1
    )


@pytest.mark.parametrize(("queue", "label"), [("q", "q"), ("user-17", "other")])
def test_only_queues_of_the_settings_have_series(
    shop: Shop, queue: str, label: str
) -> None:
    shop.enqueue(1, 2, queue=queue)
    shop.events.publish()
    shop.events.close(1)
    name = "eventcollector_publish_seconds_count"
    # The events were handed over together.
    assert value(shop, name, queue=label) == 1
    assert value(shop, "eventcollector_request_wait_seconds_count") == 1


def test_who_does_not_wait_has_not_waited(shop: Shop) -> None:
    shop.enqueue(1)
    shop.events.publish(0)
    shop.events.close(1)
    assert events(shop, "confirmed") == 1
    assert value(shop, "eventcollector_request_wait_seconds_count") == 0


def test_a_closed_process_holds_nothing(shop: Shop) -> None:
    shop.faults.go_down()
    shop.enqueue(1)
    shop.events.publish()
    wait_until(lambda: held(shop, "retained") == 1, "it is retained")
    shop.events.close(0)
    assert held(shop, "retained") == 0
    assert events(shop, "dropped") == 1


def test_two_processes_of_one_app_count_apart(shop: Shop) -> None:
    """As two apps of one name in a process do."""
    twin = Shop(name=shop.name, METRICS="prometheus")
    for one in (shop, twin):
        one.enqueue(1)
        one.events.publish()
        one.events.close(1)
    assert events(shop, "confirmed") == 2


def test_without_metrics_nothing_is_imported() -> None:
    code = """
import sys
from flask import Flask
from flask_eventcollector import EventCollector
app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = "memory://"
events = EventCollector(app)
events.enqueue_event(1, "q")
events.publish()
import threading
print([name for name in ("prometheus_client", "opentelemetry") if name in sys.modules])
print([t.name for t in threading.enumerate() if "observer" in t.name])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert run.stdout.splitlines() == ["[]", "[]"], run.stderr


def test_without_the_package_the_setting_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "is_installed", lambda module: False)
    with pytest.raises(ConfigurationError, match=r"pip install .*prometheus-client"):
        Shop(METRICS="prometheus")


@pytest.mark.parametrize("chosen", ["statsd", 5, ["prometheus", "x"]])
def test_another_name_is_refused(chosen: object) -> None:
    with pytest.raises(ConfigurationError, match="'prometheus', 'opentelemetry'"):
        Shop(METRICS=chosen)


def test_a_metric_that_fails_stops_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object, *args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PrometheusMetrics, "_show", fail)
    shop.enqueue(1)
    shop.events.publish()
    wait_until(lambda: "Observer failed: PrometheusMetrics" in caplog.text, "a record")
    assert shop.sent() == [1]
    shop.events.close(1)
    monkeypatch.undo()


# The outbox as a whole.

WAITING = OutboxFigures({"free": 5, "dead": 1}, 7.5)
BEGAN = time.time()
LAST_ACTIVE = "relay_last_active_timestamp_seconds"


def outbox(app: str, *looks: OutboxFigures | None) -> None:
    """Let a relay of *app* look at its outbox, once for each of *looks*."""
    left = iter(looks)
    observer = PrometheusOutbox(app, lambda: next(left))
    for _ in looks:
        observer.observe([], Stats())


def told(app: str) -> dict[str, float]:
    """What is told of the outbox of *app*; of a moment, whether it is after *BEGAN*."""
    samples = (
        sample
        for family in prometheus_client.REGISTRY.collect()
        for sample in family.samples
        if "_outbox_" in sample.name and sample.labels["app"] == app
    )
    found = {
        s.name.partition("_outbox_")[2] + s.labels.get("state", ""): s.value
        for s in samples
    }
    return found | {LAST_ACTIVE: found[LAST_ACTIVE] >= BEGAN}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([None], {LAST_ACTIVE: False}),
        ([OutboxFigures({}, 0)], {LAST_ACTIVE: True}),
        (
            [None, WAITING],
            {LAST_ACTIVE: True, "oldest_age_seconds": 7.5}
            | {"eventsfree": 5, "eventsdead": 1},
        ),
        ([WAITING, None], {LAST_ACTIVE: True}),
        ([WAITING, None, OutboxFigures({}, 0)], {LAST_ACTIVE: True}),
    ],
    ids=["standby", "not counted", "active", "not any more", "once more"],
)
def test_only_the_active_relay_tells_of_the_outbox(
    looks: list[OutboxFigures | None], expected: dict[str, float]
) -> None:
    app = f"shop-{uuid.uuid4()}"
    outbox(app, *looks)
    assert told(app) == expected


def test_a_relay_that_has_ended_tells_when_it_was_active() -> None:
    app = f"shop-{uuid.uuid4()}"
    observer = PrometheusOutbox(app, lambda: WAITING)
    observer.observe([], Stats())
    observer.close()
    assert told(app) == {LAST_ACTIVE: True}


def test_lost_leases_are_counted() -> None:
    app = f"shop-{uuid.uuid4()}"
    metrics = PrometheusMetrics(app, ())
    for lost in (0, 2, 3):
        metrics.observe([], Stats(lost_leases=lost))
    found = prometheus_client.REGISTRY.get_sample_value(
        "eventcollector_lease_lost_total", {"app": app}
    )
    assert found == 3


#: A relay that looks at the outbox: at this many rows, or at none if it stands by. Then
#: it is killed.
RELAY = """
import os, signal, sys
from flask_eventcollector.events import Stats
from flask_eventcollector.monitoring.outbox import OutboxFigures
from flask_eventcollector.monitoring.prometheus import PrometheusOutbox
looks = []
observer = PrometheusOutbox("shop", looks.pop)
for rows in sys.argv[1:]:
    looks.append(None if rows == "-" else OutboxFigures({"free": int(rows)}, 1.0))
    observer.observe([], Stats())
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_of_several_relays_with_common_files_the_active_one_counts(
    tmp_path: Path,
) -> None:
    def look(*rows: str) -> list[float]:
        """Let a relay look; what a scrape of any process gives after its kill."""
        run = subprocess.run(
            [sys.executable, "-c", RELAY, *rows],
            env=unmeasured() | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            timeout=60,
        )
        assert run.returncode == -signal.SIGKILL
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]
        samples = {s.name: s.value for m in registry.collect() for s in m.samples}
        found = (samples.get(f"eventcollector_outbox_{n}") for n in shown)
        return [value for value in found if value is not None]

    shown = (LAST_ACTIVE, "events")
    assert look("-") == [0]
    began = time.time()
    last, rows = look("-", "5", "4")
    assert rows == 4
    assert began < last < time.time()
    # None is active now, which grows old.
    assert look("-") == [last, 4]
    again, rows = look("-", "7")
    assert rows == 7
    assert again > last
    assert look("8", "-")[1] == 8


#: A process of an app, which holds three events while the broker is away, or none; then
#: it waits for the end of its input.
PROCESS = """
import sys
from flask_eventcollector.events import BrokerState, Stats
from flask_eventcollector.monitoring.prometheus import PrometheusMetrics
broker = BrokerState.DOWN if sys.argv[1] == "3" else BrokerState.READY
stats = Stats(enqueued=3, retained=int(sys.argv[1]), broker=broker)
metrics = [PrometheusMetrics("shop", ()) for _ in range(2)]
for _ in range(2):
    for one in metrics:
        one.observe([], stats)
print("shown", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(folder: Path, retained: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that shares its metrics, and has shown them."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(retained)],
        env=unmeasured() | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == b"shown\n"
            yield started
        finally:
            started.kill()


def shared(folder: Path) -> tuple[float, float, float]:
    """What a scrape gives: the enqueued and retained events, and the broker's state."""
    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    names = {
        "events_total": {"outcome": "enqueued"},
        "held_events": {"state": "retained"},
        "broker_ready": {},
    }
    enqueued, retained, ready = (
        registry.get_sample_value(f"eventcollector_{name}", {"app": "shop", **labels})
        for name, labels in names.items()
    )
    assert None not in (enqueued, retained, ready)
    return enqueued, retained, ready  # type: ignore[return-value]


def test_what_a_killed_process_held_is_forgotten_by_any_other(tmp_path: Path) -> None:
    """Nobody calls mark_process_dead for a relay, nor for a worker of uWSGI."""
    with process(tmp_path, 3) as first:
        # It counts for each of its two apps.
        assert shared(tmp_path) == (6, 3, 0)
        with process(tmp_path, 0):
            # Both live.
            assert shared(tmp_path) == (12, 3, 0)
        first.kill()
        first.wait()
        assert shared(tmp_path) == (12, 3, 0)
        with process(tmp_path, 0):
            assert shared(tmp_path) == (18, 0, 1)
    assert len([*tmp_path.glob("gauge_livesum_*.db")]) == 1


def test_files_of_processes_without_this_library_stay(tmp_path: Path) -> None:
    foreign = tmp_path / "gauge_livesum_1.db"
    with process(tmp_path, 0):
        content = next(tmp_path.glob("gauge_livesum_*.db")).read_bytes()
    foreign.write_bytes(content)
    with process(tmp_path, 0):
        assert foreign.exists()


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """A registry without metrics, as before the first event of a process."""
    registry = CollectorRegistry()
    monkeypatch.setattr(prometheus, "REGISTRY", registry)
    monkeypatch.setattr(prometheus, "_made", {})
    return registry


def test_two_first_events_at_once_share_their_metrics(
    first: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads of a worker get its first requests, or one a destructor's event."""
    counter, others = prometheus._counter, list[PrometheusMetrics]()

    def interrupted(name: str, text: str, *labels: str) -> Counter:
        monkeypatch.setattr(prometheus, "_counter", counter)
        others.append(PrometheusMetrics("b", ()))
        return counter(name, text, *labels)

    monkeypatch.setattr(prometheus, "_counter", interrupted)
    metrics = PrometheusMetrics("a", ())
    for one in (metrics, *others):
        one.observe([], Stats(enqueued=1))
    for app in ("a", "b"):
        labels = {"app": app, "outcome": "enqueued"}
        assert first.get_sample_value("eventcollector_events_total", labels) == 1


def test_an_interrupted_first_event_leaves_nothing_half_made(
    first: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(prometheus, "_gauge", interrupt)
        with pytest.raises(SystemExit):
            PrometheusMetrics("a", ())
    with monkeypatch.context() as patch:
        patch.setattr(first, "register", interrupt)
        with pytest.raises(SystemExit):
            PrometheusMetrics("a", ())
    PrometheusMetrics("a", ()).observe([], Stats())
    labels = {"app": "a"}
    assert first.get_sample_value("eventcollector_broker_ready", labels) == 1
