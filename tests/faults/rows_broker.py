"""Rows about a broker that is unreachable, hangs, or is short of a resource."""

from __future__ import annotations

import time

from tests.faults.figures import CONFIRM_TIMEOUT, Figures
from tests.faults.rig import EVENTS, Rig
from tests.faults.rows import ANY, row

#: Requests in each part of a comparison.
SOME = 60
#: Requests under load, which last longer than the fault.
MANY = 300
#: A heartbeat so long that no confirm becomes overdue in the meantime.
PATIENT = 15


@row(
    1,
    "broker down when the app starts",
    holds="starts; few connection attempts; events delivered later",
    short=5,
    long=20,
    confirms=2 * SOME * EVENTS,
    quick=True,
    twice=False,
)
def down_at_the_start(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        rig.node.stop_app()
        with rig.trial(broker_is_up=False, RETRY_DELAY=1) as trial:
            before, began = rig.proxy.accepted, time.monotonic()
            faulty = trial.requests(SOME)
            trial.hit()
            attempts = rig.proxy.accepted - before
            # About one in a second, however long a busy machine takes.
            most = 6 + int(time.monotonic() - began)
            trial.expect(f"1 to {most} attempts, not {attempts}", 1 <= attempts <= most)
            kept = trial.stats("retained")
            trial.expect(f"all are retained, not {kept}", kept == SOME * EVENTS)
            rig.node.start_app()
            trial.declare(trial.queue)
            trial.settle()
            trial.compare(trial.requests(SOME), faulty)
        found.add(trial.figures)
    return found


@row(
    2,
    "broker stopped and started under load",
    holds="0 lost; ids unchanged",
    short=3,
    long=20,
    confirms=MANY * EVENTS,
)
def stops_and_starts(rig: Rig, runs: int) -> Figures:
    with rig.trial() as trial:
        for _ in range(runs):
            with trial.under_load(MANY, pause=0.02):
                rig.node.stop_app()
                trial.hit()
                rig.node.start_app()
    return trial.figures


@row(
    3,
    "broker killed with `kill -9` under load",
    holds="0 acknowledged events lost on a durable queue",
    short=1,
    long=20,
    confirms=MANY * EVENTS,
    modes=ANY,
)
def killed(rig: Rig, runs: int) -> Figures:
    with rig.trial() as trial:
        for _ in range(runs):
            with trial.under_load(MANY, pause=0.02):
                rig.node.kill()
                trial.hit()
            rig.node.start()
            trial.settle()
    return trial.figures


@row(
    4,
    "broker frozen",
    holds="latency rule; only the first requests wait; no duplicates if thawed in time",
    short=5,
    long=20,
    confirms=2 * SOME * EVENTS,
    quick=True,
    twice=False,
)
def frozen(rig: Rig, runs: int) -> Figures:
    with rig.trial(HEARTBEAT=PATIENT) as trial:
        for _ in range(runs):
            healthy = trial.requests(SOME)
            rig.node.freeze()
            trial.hit()
            faulty = trial.requests(SOME)
            # After a stall of its own, the app looks for a new connection.
            away = trial.shows("stalled", "down", "connecting")
            trial.expect("its state is stalled", away)
            rig.node.thaw()
            trial.compare(healthy, faulty)
            waited = sum(a.seconds >= CONFIRM_TIMEOUT for a in faulty)
            # Otherwise, all would wait. A busy machine holds up a few.
            trial.expect(f"only the first wait, not {waited}", waited <= SOME // 2)
            trial.settle()
    return trial.figures


@row(
    5,
    "memory alarm",
    holds="as row 4; state blocked; nothing sent meanwhile; connection kept",
    short=5,
    long=20,
    confirms=2 * SOME * EVENTS,
    quick=True,
    twice=False,
)
def memory_alarm(rig: Rig, runs: int) -> Figures:
    with rig.trial(HEARTBEAT=PATIENT) as trial:
        trial.requests(8)
        trial.settle()
        connections = rig.proxy.accepted
        for _ in range(runs):
            healthy = trial.requests(SOME)
            rig.node.memory_alarm(True)
            trial.hit()
            faulty = trial.requests(SOME)
            trial.wait_for_broker("blocked")
            in_flight = trial.stats("in_flight")
            faulty += trial.requests(SOME)
            # A late confirm makes it less.
            trial.expect("nothing was sent", trial.stats("in_flight") <= in_flight)
            rig.node.memory_alarm(False)
            trial.compare(healthy, faulty)
            trial.settle()
        trial.expect("the connection was not lost", rig.proxy.accepted == connections)
    return trial.figures


@row(
    6,
    "disk alarm during shutdown",
    holds="bounded shutdown; unconfirmed events counted",
    short=1,
    long=10,
    confirms=SOME * EVENTS,
    refuses=True,
)
def disk_alarm_at_exit(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        with rig.trial() as trial:
            trial.requests(SOME)
            trial.settle()
            disk_alarm(rig, True)
            trial.requests(SOME)
            trial.hit()
            trial.expect_bounded_exit()
            disk_alarm(rig, False)
        trial.expect("none is dead", not trial.figures.dead)
        found.add(trial.figures)
    return found


@row(
    7,
    "new connection during an alarm",
    holds="state reported; nothing hangs",
    short=1,
    long=10,
    confirms=SOME * EVENTS,
    twice=False,
)
def connects_under_an_alarm(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        rig.node.memory_alarm(True)
        with rig.trial(HEARTBEAT=PATIENT) as trial:
            trial.requests(SOME)
            trial.hit()
            trial.wait_for_broker("blocked")
            trial.expect("nothing is confirmed", not trial.stats("confirmed"))
            rig.node.memory_alarm(False)
        found.add(trial.figures)
    return found


@row(
    15,
    "all connections closed repeatedly",
    holds="0 lost; 4 workers reconnect each time, with few attempts",
    short=2,
    long=30,
    confirms=MANY * EVENTS,
    hits=2,
)
def connections_closed(rig: Rig, runs: int) -> Figures:
    workers = 4
    with rig.trial(workers=workers, HEARTBEAT=PATIENT) as trial:
        for _ in range(runs):
            before = rig.proxy.accepted
            with trial.under_load(MANY, pause=0.02):
                for _ in range(2):
                    trial.wait_until(
                        "one is open", lambda: rig.proxy.open_connections > 0
                    )
                    trial.hit()
                    rig.node.close_all_connections()
                    time.sleep(0.5)
            trial.settle()
            # The broker is reachable, so one attempt should suffice each time.
            most = 2 * 2 * workers
            made = rig.proxy.accepted - before
            trial.expect(f"at most {most} connections, not {made}", made <= most)
    return trial.figures


def disk_alarm(rig: Rig, on: bool) -> None:
    """Make the node believe that its disk is full."""
    limit = "1000000GB" if on else "1MB"
    rig.node.eval(f'rabbit_disk_monitor:set_disk_free_limit("{limit}").')
