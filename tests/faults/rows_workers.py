"""Rows about workers of each kind: threads, greenlets and uWSGI's options."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tests.faults.figures import CONFIRM_TIMEOUT, Figures
from tests.faults.rig import EVENTS, Rig, Trial
from tests.faults.rows import row
from tests.rabbitmq import Message

#: Requests in each part of a run.
SOME = 40
#: Seconds until the broker responds, while greenlets wait concurrently.
LATENCY = 0.1

UWSGI = ("uwsgi", "uwsgi-enable-threads", "uwsgi-threads", "uwsgi-lazy-apps")
GEVENT = ("gunicorn-gevent", "gunicorn-gevent-preload", "uwsgi-gevent")


@row(
    25,
    "32 threads enqueue and publish",
    holds="books balance; 0 lost, 0 duplicated, 0 mixed between requests",
    short=2,
    long=20,
    confirms=200 * EVENTS,
    twice=False,
    fails=True,
    discards=True,
)
def many_threads(rig: Rig, runs: int) -> Figures:
    threads = ("--threads", "32")
    with rig.trial(kind="gunicorn-gthread", options=threads, HEARTBEAT=15) as trial:
        trial.load.threads = 32
        for _ in range(runs):
            succeed = trial.paths(200, {"events": EVENTS})
            fail = [path.replace("?", "/refused?") for path in trial.paths(200, {})]
            answers = trial.load.run(_mixed(succeed, fail))
            trial.hit()
            refused = sum(answer.status == 409 for answer in answers)
            trial.expect(f"200 are refused, not {refused}", refused == 200)
    mixed = _mixed_up(trial.arrived)
    number = len(mixed)
    trial.expect(f"each request's events are together, {number} times not", not number)
    failed, refused = trial.figures.failed, 200 * runs
    trial.expect(f"no other fails, not {failed - refused}", failed == refused)
    return trial.figures


@row(
    28,
    "uWSGI option sets",
    holds="works with each, even while the broker does not respond",
    short=len(UWSGI),
    long=5 * len(UWSGI),
    # It does not always run the exit handlers. Without them, a worker leaves no counts.
    confirms=SOME * EVENTS,
    kinds=UWSGI,
)
def uwsgi_options(rig: Rig, runs: int) -> Figures:
    return _an_outage_each(rig, UWSGI, runs)


@row(
    29,
    "greenlets, with and without `--preload`",
    holds="works; greenlets wait for confirms concurrently",
    short=len(GEVENT),
    long=5 * len(GEVENT),
    # uWSGI's gevent loop runs no exit handlers, so it leaves no counts.
    confirms=SOME * EVENTS,
    kinds=GEVENT,
)
def greenlets(rig: Rig, runs: int) -> Figures:
    return _an_outage_each(rig, GEVENT, runs, side_by_side=True)


def _an_outage_each(
    rig: Rig, kinds: Sequence[str], runs: int, *, side_by_side: bool = False
) -> Figures:
    """Let each kind serve requests, with the broker reachable and then unreachable."""
    found = Figures()
    # Long enough that waits one after the other would be noticed.
    patience = 4 * CONFIRM_TIMEOUT if side_by_side else CONFIRM_TIMEOUT
    for _, kind in zip(range(runs), itertools.cycle(kinds), strict=False):
        with rig.trial(
            kind=kind, workers=2, HEARTBEAT=15, CONFIRM_TIMEOUT=patience
        ) as trial:
            if side_by_side:
                _expect_side_by_side(trial)
            trial.requests(SOME)
            rig.proxy.hold()
            trial.requests(SOME)
            trial.hit()
            rig.proxy.restore()
            trial.settle()
            trial.expect_bounded_exit()
        trial.figures.broken = [f"{kind}: {it}" for it in trial.figures.broken]
        found.add(trial.figures)
    return found


def _expect_side_by_side(trial: Trial) -> None:
    trial.requests(8)  # Wait until the workers are connected.
    trial.proxy.latency = LATENCY
    slowest = max(answer.seconds for answer in trial.requests(8, pause=0))
    trial.proxy.latency = 0.0
    # Both ways, so one after the other would take 16 times the latency.
    most = 8 * LATENCY
    trial.expect(f"they wait concurrently, not {slowest:.2f} s", slowest < most)


def _mixed(*paths: Sequence[str]) -> list[str]:
    return list(itertools.chain.from_iterable(zip(*paths, strict=True)))


def _mixed_up(arrived: Sequence[Message]) -> list[str]:
    """The requests whose events did not arrive together and in order."""
    places = [
        (key.partition(".")[0], event["place"])
        for event in (message.json() for message in arrived)
        for key in [event["key"]]
    ]
    groups = itertools.groupby(places, key=lambda place: place[0])
    wanted = list(range(EVENTS))
    return [name for name, found in groups if [place for _, place in found] != wanted]
