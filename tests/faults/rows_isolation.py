"""Rows about a queue, event or finalizer that must not delay the others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from flask_eventcollector.verifying.load import Answer
from tests.faults.figures import Figures
from tests.faults.rig import EVENTS, Rig, Trial, new_name
from tests.faults.rows import row
from tests.faults.rows_refusals import (
    PASSWORD,
    as_admin,
    bind,
    closed_channels,
    has_dead,
    user,
)
from tests.isolation.fake_broker import FakeBroker
from tests.isolation.fake_broker import Message as Published
from tests.rabbitmq import Message

#: Requests in each part of a run.
SOME = 40
#: Events that a process may hold, and how many of them dead.
LIMIT, MOST_DEAD = 300, 50
#: Requests under load, which last longer than the fault.
MANY = 300
#: Events together with the one that the broker rejects.
NEIGHBOURS = 100
#: Seconds within which a healthy queue's events are confirmed.
SOON = 1.0
#: Seconds that a queue is silent: longer than the timeout for a silent broker.
SILENT_FOR = 5.0
#: Bytes of the smallest frames that AMQP allows.
FRAME_MAX = 4096
#: How many channels may be closed until a refused event is dead.
FEW = 30
#: A part of the payload of a single event.
MARKER = b'"padding"'


@row(
    53,
    "queue accepts events, but never confirms",
    holds="other queues confirm within a second; connection kept; no duplicates",
    short=1,
    long=20,
    confirms=MANY * EVENTS,
    twice=False,
)
def silent_queue(rig: Rig, runs: int) -> Figures:
    with rig.trial(HEARTBEAT=2) as trial:
        silent = trial.declare()
        for _ in range(runs):
            trial.requests(1)
            trial.settle()
            connections = rig.proxy.accepted
            with suspended(rig, silent):
                trial.requests(MANY, pause=0, queue=silent)
                trial.hit(min(1, trial.stats("in_flight")) or rig.is_baseline)
                # The silent queue would hold up each; a busy machine, only a few.
                usual = statistics.median(_delays(trial))
                soon = f"confirmed within {SOON:.0f} s, not {usual:.1f} s"
                trial.expect(soon, usual < SOON)
            made = rig.proxy.accepted - connections
            trial.expect("the connection was not lost", not made)
            trial.settle()
    return trial.figures


def _delays(trial: Trial) -> Iterator[float]:
    """The seconds until a request's events are confirmed, repeatedly."""
    end = time.monotonic() + SILENT_FOR
    while time.monotonic() < end:
        began, before = time.monotonic(), trial.stats("confirmed")
        trial.requests(1)
        wanted = before + EVENTS
        trial.wait_until("they are confirmed", partial(_has_confirmed, trial, wanted))
        yield time.monotonic() - began


def _has_confirmed(trial: Trial, number: int) -> bool:
    return bool(trial.stats("confirmed") >= number)


@contextmanager
def suspended(rig: Rig, queue: str) -> Iterator[None]:
    """Suspend the process of *queue* during the block."""
    _call_process(rig, "suspend", queue)
    try:
        yield
    finally:
        _call_process(rig, "resume", queue)


def _call_process(rig: Rig, what: str, queue: str) -> None:
    rig.node.eval(
        f'Name = rabbit_misc:r(<<"/">>, queue, <<"{queue}">>),'
        "{ok, Queue} = rabbit_amqqueue:lookup(Name),"
        f" sys:{what}(amqqueue:get_pid(Queue))."
    )


# An event that the broker rejects.


@row(
    54,
    "event over which the broker closes the channel or connection",
    holds="dead-lettered with the reason; neighbours delivered, with at most one second"
    " copy; spool: even after `kill -9`",
    short=1,
    long=10,
    confirms=3 * NEIGHBOURS,
    hits=3,
    refuses=True,
)
def culprit(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        for act in (_too_wide, _forbidden, _ends_the_connection):
            found.add(act(rig))
    return found


def _too_wide(rig: Rig) -> Figures:
    """Its headers don't fit into the frames of this broker."""
    with small_frames(rig), rig.trial() as trial:
        with inherited(trial, rig.node.stop_app, rig.node.start_app):
            trial.requests(1, events=NEIGHBOURS + 1, widened=50, width=FRAME_MAX)
        _await_verdict(trial)
    _expect_reported(trial, "frame_max leaves")
    return trial.figures


def _forbidden(rig: Rig) -> Figures:
    """The user may not write with its routing key, so the channel is closed (403)."""
    exchange, half = new_name("topics"), NEIGHBOURS // EVENTS // 2
    with user(rig) as name:
        url = rig.proxy.url.replace("guest:guest", f"{name}:{PASSWORD}")
        with rig.trial(BROKER_URL=url, DEAD_AFTER=1.5) as trial:
            bind(trial, exchange, "topic", "orders.#")
            as_admin(rig, "set_topic_permissions", name, "/", exchange, "^orders", ".*")
            with inherited(trial, rig.node.stop_app, rig.node.start_app):
                trial.requests(half, exchange=exchange)
                trial.requests(1, events=1, exchange=exchange, queue="forbidden")
                trial.requests(half, exchange=exchange)
            closed = closed_channels(rig)
            _await_verdict(trial)
            closed = closed_channels(rig) - closed
            trial.expect(f"few channels are closed, not {closed}", closed <= FEW)
    _expect_reported(trial, "ACCESS_REFUSED")
    return trial.figures


def _ends_the_connection(rig: Rig) -> Figures:
    """A fake broker closes the connection whenever it receives the event (501)."""

    def answer(message: Published) -> str:
        return "close connection" if MARKER in message.body else "ack"

    with (
        FakeBroker(answer) as broker,
        # It sends no heartbeats.
        rig.trial(BROKER_URL=broker.url, HEARTBEAT=60) as trial,
    ):

        def fall_silent() -> None:
            broker.answer = lambda message: "nothing"

        def recover() -> None:
            # Events sent to the killed worker's broker are lost with it.
            broker.messages.clear()
            broker.answer = answer

        with inherited(trial, fall_silent, recover):
            trial.requests(1, events=NEIGHBOURS + 1, padded=50, padding=10)
        _await_verdict(trial)
        trial.arrived += [
            Message(message.properties, message.body)
            for message in broker.messages
            if MARKER not in message.body
        ]
    _expect_reported(trial, "FRAME_ERROR - a marker")
    return trial.figures


@contextmanager
def inherited(
    trial: Trial, leave: Callable[[], None], come_back: Callable[[], None]
) -> Iterator[None]:
    """With the spool: a killed worker's successor delivers the block's events.

    *leave* makes the broker unreachable before, *come_back* makes it reachable
    afterwards.
    """
    if trial.rig.mode != "spool" or trial.rig.is_baseline:
        yield
        return
    leave()
    yield
    trial.wait_until("all is on disk", lambda: not trial.stats("unspooled"))
    (pid,) = trial.host.worker_pids
    trial.host.kill_worker(pid)
    trial.host.wait_until_complete()
    come_back()


def _await_verdict(trial: Trial) -> None:
    trial.wait_until("it is dead", partial(has_dead, trial, 1))
    trial.hit()
    trial.settle()
    trial.expect("no other is dead", trial.stats("dead") == 1)


def _expect_reported(trial: Trial, reason: str) -> None:
    """The log has the reason, and no event arrived more than twice."""
    dead = [line for line in trial.log.splitlines() if "Dead-lettered" in line]
    trial.expect(f"{reason!r} is told", any(reason in line for line in dead))
    trial.expect("none is dropped", not trial.figures.dropped)
    most = trial.most_copies
    trial.expect(f"at most one more copy, not {most - 1}", most <= 2)


@contextmanager
def small_frames(rig: Rig) -> Iterator[None]:
    """Limit new connections to the smallest frames that AMQP allows."""
    _limit_frames(rig, FRAME_MAX)
    try:
        yield
    finally:
        _limit_frames(rig, 131_072)


def _limit_frames(rig: Rig, size: int) -> None:
    rig.node.eval(f"application:set_env(rabbit, frame_max, {size}).")


# Limits.


@row(
    55,
    "refused and dead events at the limit",
    holds="they have limits of their own; no event for a healthy queue is lost",
    short=1,
    long=20,
    confirms=3 * SOME * EVENTS,
    refuses=True,
)
def refused_at_the_limit(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        healthy: list[Answer] = []
        with rig.trial(
            MAX_EVENTS=LIMIT,
            MAX_DEAD_EVENTS=MOST_DEAD,
            DEAD_AFTER=0.5,
            RETRY_DELAY=0.02,
            RETRY_MAX_DELAY=0.1,
        ) as trial:
            retired = new_name("retired")
            for _ in range(2):
                trial.requests(LIMIT // EVENTS, pause=0, queue=retired)
                healthy += trial.requests(SOME)
            trial.hit(min(1, trial.stats("dropped")) or rig.is_baseline)
            trial.wait_until("many are dead", partial(_has_dead, trial, MOST_DEAD))
            healthy += trial.requests(SOME)
        keys = {key for answer in healthy for key in answer.keys}
        lost = keys - {message.json()["key"] for message in trial.arrived}
        trial.expect(f"no healthy event is lost, not {len(lost)}", not lost)
        found.add(trial.figures)
    return found


def _has_dead(trial: Trial, number: int) -> bool:
    return bool(trial.stats("dead") >= number)


# Finalizers.


@row(
    56,
    "finalizers and log handlers enqueue during garbage collection",
    holds="nothing hangs; each request gets a response; books balance",
    short=1,
    long=60,
    confirms=MANY * EVENTS,
    # Events after the last flush are dropped and counted.
    refuses=True,
    discards=True,
)
def noisy_finalizers(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        with rig.trial(asks={"NOISY": 1}) as trial:
            # The library's own threads also enqueue, but publish nothing.
            trial.undelivered = ("in_flight", "retained", "unadopted")
            with trial.under_load(MANY, pause=0):
                for _ in range(2):
                    # This makes the library log something.
                    rig.node.close_all_connections()
                    trial.hit()
                    time.sleep(0.3)
            trial.settle()
        found.add(trial.figures)
    return found
