"""The health of a process."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

import pytest

from flask_eventcollector import BrokerState, Health, HealthStatus, Outcome, Stats
from flask_eventcollector.delivery.limits import Limits
from flask_eventcollector.events import TargetProblem
from flask_eventcollector.monitoring.health import health_of
from tests.helpers import Shop, open_shop

LIMITS = Limits(
    max_events=10,
    max_bytes=1000,
    max_dead_events=10,
    max_in_flight=10,
    drop_oldest=False,
    reject=False,
    dead_after=1.0,
    delay=lambda failures: 1.0,
)


def health(threads: str = "", **stats: Any) -> Health:
    return health_of(dataclasses.replace(Stats(), **stats), LIMITS, threads)


OK, DEGRADED, FAILING = HealthStatus


@pytest.mark.parametrize(
    ("stats", "check", "status"),
    [
        ({}, "broker", OK),
        ({"broker": BrokerState.CONNECTING}, "broker", OK),
        ({"broker": BrokerState.DOWN, "retained": 3}, "broker", DEGRADED),
        ({"broker": BrokerState.BLOCKED}, "broker", DEGRADED),
        ({"broker": BrokerState.STALLED}, "broker", DEGRADED),
        ({"retained": 9}, "backlog", OK),
        ({"retained": 4, "in_flight": 3, "collected": 3}, "backlog", FAILING),
        ({"held_bytes": 1000}, "backlog", FAILING),
        # The broker takes them, so nothing is lost.
        ({"spool_error": "the disk is full"}, "storage", DEGRADED),
        ({"spool_error": "the disk is full", "unspooled": 1}, "storage", FAILING),
        (
            {"spool_error": "the disk is full", "broker": BrokerState.DOWN},
            "storage",
            FAILING,
        ),
        ({"outbox_error": "no such table: outbox"}, "storage", DEGRADED),
        ({"quarantined": 1}, "storage", DEGRADED),
        ({"strays": 1, "stray_events": 5}, "storage", DEGRADED),
        ({"problem_targets": 1}, "targets", DEGRADED),
        (
            {
                "problem_targets": 1,
                "problems": (TargetProblem("q", "", 1, "no queue"),),
            },
            "targets",
            DEGRADED,
        ),
        ({"dead": 1}, "dead", DEGRADED),
    ],
)
def test_each_part_is_checked(
    stats: dict[str, Any], check: str, status: HealthStatus
) -> None:
    found = health(**stats)
    assert found.checks[check].status is status
    assert bool(found.checks[check].problem) == (status is not OK)
    # Only what is asked for is wrong, but for a broker that makes it worse.
    others = {name: one for name, one in found.checks.items() if name != check}
    others.pop("broker", None)
    assert all(one.status is OK for one in others.values())
    assert found.is_live
    assert found.is_ready == (status is not FAILING)


def test_the_worst_check_counts() -> None:
    assert health().status is OK
    assert health(dead=1).status is DEGRADED
    assert health(dead=1, retained=10).status is FAILING
    assert Health().status is OK


def test_only_its_threads_make_a_process_not_live() -> None:
    found = health("no thread could be started: can't start new thread")
    assert not found.is_live
    assert not found.is_ready


def test_a_process_that_has_enqueued_nothing_is_in_order() -> None:
    with open_shop() as shop:
        assert shop.events.health() == Health()


def test_a_broker_that_is_down_leaves_it_ready() -> None:
    with open_shop() as shop:
        shop.faults.go_down("connection refused")
        shop.enqueue(1)
        shop.events.publish()
        found = shop.events.health()
        assert (found.status, found.is_live, found.is_ready) == (DEGRADED, True, True)
        assert (
            found.checks["broker"].problem == "down: connection refused; 1 event waits"
        )


def test_a_full_backlog_makes_it_not_ready() -> None:
    with open_shop(MAX_EVENTS=2, MAX_EVENT_BYTES=10) as shop:
        shop.faults.go_down()
        shop.enqueue(1, 2)
        shop.events.publish()
        assert not shop.events.health().is_ready
        assert shop.events.health().is_live


def test_it_is_json() -> None:
    with open_shop() as shop:
        shop.faults.refuse("q", Outcome.NACKED)
        shop.enqueue(1)
        shop.events.publish()
        shown = json.loads(json.dumps(shop.events.health().as_dict()))
        assert shown["status"] == "degraded"
        assert set(shown["checks"]) == {
            "threads",
            "broker",
            "backlog",
            "storage",
            "targets",
            "dead",
        }
        assert shown["checks"]["targets"]["status"] == "degraded"


def test_a_machine_without_threads_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    shop = Shop()
    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", fail)
        shop.enqueue(1)
        assert not shop.events.health().is_live
    shop.enqueue(2)
    assert shop.events.health().is_live
    shop.events.close(1)


@pytest.mark.parametrize(
    ("stats", "check", "words"),
    [
        ({"retained": 1, "broker": BrokerState.DOWN}, "broker", "; 1 event waits"),
        ({"retained": 2, "broker": BrokerState.DOWN}, "broker", "; 2 events wait"),
        ({"quarantined": 1}, "storage", "1 damaged file, and 0 that"),
        ({"quarantined": 2}, "storage", "2 damaged files, and 0 that"),
        ({"problem_targets": 1}, "targets", "1 target with events"),
        ({"dead": 1}, "dead", "1 dead event: "),
        ({"dead": 2}, "dead", "2 dead events: "),
    ],
)
def test_one_thing_is_named_in_the_singular(
    stats: dict[str, Any], check: str, words: str
) -> None:
    assert words in health(**stats).checks[check].problem
