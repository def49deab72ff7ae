"""Rows about the network between app and broker."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from flask_eventcollector.verifying.load import Answer
from tests.faults.figures import CONFIRM_TIMEOUT, Figures
from tests.faults.proxy import Side
from tests.faults.rig import EVENTS, SETTINGS, Rig, Trial
from tests.faults.rows import row
from tests.faults.tls import Authority, TLSProxy

#: Requests in each part of a comparison.
SOME = 60
#: Requests under load, which last longer than the fault.
MANY = 300
HEARTBEAT: float = SETTINGS["HEARTBEAT"]
#: Seconds within which a dead connection is aborted.
GIVEN_UP = 2 * (HEARTBEAT + 5)


@row(
    8,
    "black hole, no RST",
    holds="connection aborted within 2 x (heartbeat + 5 s); latency rule",
    short=5,
    long=20,
    confirms=2 * SOME * EVENTS,
    quick=True,
)
def black_hole(rig: Rig, runs: int) -> Figures:
    with rig.trial() as trial:
        for _ in range(runs):
            healthy = trial.requests(SOME)
            rig.proxy.silence(*Side)
            trial.hit()
            began = time.monotonic()
            trial.compare(healthy, trial.requests(SOME))
            trial.wait_until("aborted", lambda: not trial.stats("in_flight"))
            seconds = time.monotonic() - began
            trial.expect(
                f"aborted in time, not after {seconds:.1f} s", seconds < GIVEN_UP
            )
            rig.proxy.restore()
            # Connections made during the black hole would wait for a response.
            rig.proxy.cut()
            trial.settle()
    return trial.figures


@row(
    9,
    "RST after a random number of bytes",
    holds="0 lost",
    short=10,
    long=200,
    confirms=40 * EVENTS,
)
def reset_anywhere(rig: Rig, runs: int) -> Figures:
    with rig.trial() as trial:
        for _ in range(runs):
            rig.proxy.cut_after([int(10 ** rig.random.uniform(0, 4.5))])
            with trial.under_load(40, pause=0.01):
                pass
            trial.wait_until("the cut", lambda: not rig.proxy.planned_cuts)
            trial.hit()
    return trial.figures


@row(
    10,
    "confirms lost, publishes delivered",
    holds="0 lost; duplicates limited to the window, and marked",
    short=1,
    long=20,
    confirms=SOME * EVENTS,
)
def confirms_cut(rig: Rig, runs: int) -> Figures:
    window = 100
    # So patient that it does not give up the connection before it is cut.
    with rig.trial(MAX_IN_FLIGHT=window, HEARTBEAT=15) as trial:
        for _ in range(runs):
            trial.requests(8)
            trial.settle()
            before = rig.node.count(trial.queue)
            rig.proxy.silence(Side.BROKER)
            trial.requests(SOME)
            trial.expect("some are in flight", trial.stats("in_flight") > 0)
            trial.wait_until("some arrive", partial(_have_arrived, trial, before))
            rig.proxy.restore()
            rig.proxy.cut()
            trial.hit()
            trial.settle()
    most = window * runs
    found = trial.figures.duplicated
    trial.expect(f"at most {most} arrived twice, not {found}", 0 < found <= most)
    return trial.figures


def _have_arrived(trial: Trial, before: int) -> bool:
    """Whether there are more than *before*."""
    return trial.node.count(trial.queue) > before


@row(
    11,
    "half-close, either side",
    holds="0 lost",
    short=4,
    long=50,
    confirms=100 * EVENTS,
)
def half_closed(rig: Rig, runs: int) -> Figures:
    with rig.trial() as trial:
        for _, side in zip(range(runs), itertools.cycle(Side), strict=False):
            with trial.under_load(100, pause=0.02):
                trial.hit(rig.proxy.half_close(side))
            trial.settle()
    return trial.figures


@row(
    12,
    "latency of 50, 200, 1000 ms",
    holds="latency rule; a request with 20 events waits no longer than with one",
    short=5,
    long=21,
    confirms=SOME,
    quick=True,
)
def latency(rig: Rig, runs: int) -> Figures:
    with rig.trial(HEARTBEAT=15) as trial:
        for _, seconds in zip(
            range(runs), itertools.cycle((0.05, 0.2, 1.0)), strict=False
        ):
            healthy = trial.requests(SOME)
            rig.proxy.latency = seconds / 2
            trial.hit()
            one = trial.requests(SOME // 2, events=1)
            many = trial.requests(SOME // 2, events=20)
            rig.proxy.latency = 0.0
            trial.compare(healthy, one + many)
            grown = _median(many) - _median(one)
            # With longer latencies, waits may time out on a busy machine, with one
            # event or many.
            if seconds < CONFIRM_TIMEOUT / 2:
                trial.expect(f"no longer with 20, not {grown:.3f} s", grown < seconds)
            trial.settle()
    return trial.figures


def _median(answers: Sequence[Answer]) -> float:
    return statistics.median(answer.seconds for answer in answers)


@row(
    13,
    "bandwidth of 16 KB/s, a byte at a time",
    holds="memory bounded; 0 lost; connection kept",
    short=1,
    long=10,
    confirms=SOME * 20,
    twice=False,
)
def narrow(rig: Rig, runs: int) -> Figures:
    with rig.trial(MAX_IN_FLIGHT=400) as trial:
        for _ in range(runs):
            trial.requests(8)
            trial.settle()
            accepted = rig.proxy.accepted
            before = trial.resident_bytes()
            rig.proxy.bandwidth, rig.proxy.slice = 16_000, 1
            trial.requests(SOME, events=20)
            trial.hit()
            time.sleep(3 * HEARTBEAT)
            trial.expect("in flight <= 400", trial.stats("in_flight") <= 400)
            grown = trial.resident_bytes() - before
            trial.expect(f"little more memory, not {grown:,}", grown < 16_000_000)
            rig.proxy.restore()
            trial.settle()
            trial.expect("the connection was not lost", rig.proxy.accepted == accepted)
    return trial.figures


@row(
    14,
    "idle for 3 heartbeats",
    holds="no reconnect; the first publish works",
    short=1,
    long=10,
    confirms=8 * EVENTS,
    twice=False,
)
def idle(rig: Rig, runs: int) -> Figures:
    # Longer than elsewhere: on a busy machine, a heartbeat may be late by a second.
    heartbeat = 2 * HEARTBEAT
    with rig.trial(HEARTBEAT=heartbeat, CONFIRM_TIMEOUT=10) as trial:
        for _ in range(runs):
            trial.requests(8)
            trial.settle()
            accepted = rig.proxy.accepted
            time.sleep(3 * heartbeat)
            trial.hit()
            trial.requests(1)
            trial.expect("the connection was not lost", rig.proxy.accepted == accepted)
            trial.expect("confirmed at once", not trial.stats("in_flight"))
    return trial.figures


@row(
    22,
    "host name does not resolve, resolver hangs",
    holds="events retained; at most one thread resolves; bounded shutdown",
    short=2,
    long=10,
    confirms=0,
    refuses=True,
)
def resolver_hangs(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _, name in zip(
        range(runs), itertools.cycle(("hangs.invalid", "unknown.invalid")), strict=False
    ):
        url = f"amqp://guest:guest@{name}:{rig.node.port}/"
        with rig.trial(BROKER_URL=url) as trial:
            trial.requests(SOME)
            trial.hit()
            threads = trial.stats("threads") or []
            connecting = [t for t in threads if t.startswith("eventcollector-io")]
            trial.expect(f"one connects, not {connecting}", len(connecting) == 1)
            # pika would resolve in this way: in an additional thread for each attempt.
            timers = [thread for thread in threads if "_resolve" in thread]
            trial.expect(f"no other resolves, not {timers}", not timers)
            trial.expect("none is confirmed", not trial.stats("confirmed"))
            trial.expect_bounded_exit()
        # No event can be confirmed, so each one is dropped or stays on disk.
        figures = trial.figures
        counted = figures.kept if rig.mode == "spool" else figures.dropped
        trial.expect(f"all are counted, not {counted}", counted == SOME * EVENTS)
        trial.expect("none is dead", not figures.dead)
        found.add(figures)
    return found


@row(
    23,
    "untrusted certificate",
    holds="refused and reported; no clear text; delivered with a trusted certificate",
    short=1,
    long=10,
    confirms=SOME * EVENTS,
    twice=False,
)
def bad_certificate(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        ours, other = Authority(), Authority()
        with (
            TLSProxy(rig.node.port, other.context()) as tls,
            ours.file() as known,
            rig.trial(BROKER_URL=_tls_url(rig, tls, known), HEARTBEAT=15) as trial,
        ):
            trial.requests(SOME)
            trial.hit()
            trial.wait_until(
                "it is reported", lambda: "certificate" in trial.stats("broker_error")
            )
            trial.expect("no connection was accepted", not tls.opened)
            tls.context = ours.context()
            trial.settle()
        found.add(trial.figures)
    return found


def _tls_url(rig: Rig, tls: TLSProxy, known: Path) -> str:
    words = {"cacertfile": str(known)}
    if rig.is_baseline:
        # pika's own parameters.
        words = {"ssl_options": repr({"ca_certs": str(known)})}
    return f"amqps://guest:guest@localhost:{tls.port}/?{urlencode(words)}"
