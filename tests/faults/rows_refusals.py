"""Rows about a broker that is reachable, but refuses events."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.faults.figures import Figures
from tests.faults.proxy import Side
from tests.faults.rig import EVENTS, Rig, Trial, new_name
from tests.faults.rows import row

#: Requests for each target.
SOME = 40
PASSWORD = "the-planted-password"
#: The most bytes of events that are retried within a second. These are seven attempts
#: at most; without backoff, it would be megabytes.
FEW_TRIES = 100_000


@row(
    16,
    "exchange deleted (404)",
    holds="others unaffected; at most one channel closed per probe; recovers later",
    short=1,
    long=20,
    confirms=3 * SOME * EVENTS,
)
def exchange_deleted(rig: Rig, runs: int) -> Figures:
    exchange = new_name("exchange")
    with rig.trial(HEARTBEAT=15) as trial:
        bind(trial, exchange)
        for _ in range(runs):
            trial.requests(SOME, exchange=exchange)
            delete_exchange(rig, exchange)
            before, closed = trial.stats("confirmed"), closed_channels(rig)
            began = time.monotonic()
            trial.requests(SOME, exchange=exchange)
            await_refusal(trial)
            closed = closed_channels(rig) - closed
            # Then about two in a second, however long a busy machine takes.
            most = 6 + 2 * int(time.monotonic() - began)
            expected = f"1 to {most} channels closed, not {closed}"
            trial.expect(expected, 1 <= closed <= most)
            trial.requests(SOME)
            trial.expect_no_vain_wait()
            trial.expect_confirmed(SOME * EVENTS, since=before)
            bind(trial, exchange)
            trial.settle()
    return trial.figures


@row(
    17,
    "queue does not exist",
    holds="others unaffected; recovers when declared; otherwise dead-lettered, counted",
    short=1,
    long=20,
    confirms=2 * SOME * EVENTS,
    refuses=True,
)
def no_such_queue(rig: Rig, runs: int) -> Figures:
    found = Figures()
    for _ in range(runs):
        found.add(_declared_late(rig))
        found.add(_never_declared(rig))
    return found


def _declared_late(rig: Rig) -> Figures:
    with rig.trial(HEARTBEAT=15) as trial:
        late = new_name("late")
        trial.requests(SOME, queue=late)
        trial.requests(SOME)
        trial.expect_no_vain_wait()
        await_refusal(trial)
        trial.expect_confirmed(SOME * EVENTS)
        trial.declare(late)
    trial.expect("none is dropped", not trial.figures.dropped)
    trial.expect("none is dead", not trial.figures.dead)
    return trial.figures


def _never_declared(rig: Rig) -> Figures:
    with rig.trial(DEAD_AFTER=0.5) as trial:
        trial.requests(1, queue=new_name("never"))
        trial.wait_until("dead", lambda: trial.stats("dead") == EVENTS)
    trial.expect("none is dropped", not trial.figures.dropped)
    trial.expect(f"{EVENTS} are dead", trial.figures.dead == EVENTS)
    return trial.figures


@row(
    18,
    "queue full, `reject-publish`",
    holds="nacked, retained with backoff; delivered when there is room",
    short=1,
    long=20,
    confirms=SOME * EVENTS,
)
def queue_full(rig: Rig, runs: int) -> Figures:
    with rig.trial(HEARTBEAT=15) as trial:
        full = trial.declare(x_max_length=50, x_overflow="reject-publish")
        for _ in range(runs):
            trial.requests(SOME, queue=full)
            await_refusal(trial)
            sent, began = rig.proxy.passed[Side.CLIENT], time.monotonic()
            time.sleep(1)
            sent = rig.proxy.passed[Side.CLIENT] - sent
            # However long a busy machine sleeps.
            most = FEW_TRIES * (time.monotonic() - began)
            trial.expect(f"few tries, not {sent:,} bytes", sent < most)
            trial.wait_until("all are delivered", lambda: room_was_enough(trial))
    return trial.figures


@row(
    19,
    "event larger than the broker allows",
    holds="dead-lettered at once, its 99 neighbours delivered; later ones not sent",
    short=1,
    long=20,
    confirms=99,
    refuses=True,
)
def too_large(rig: Rig, runs: int) -> Figures:
    with limited_messages(rig, 5_000), rig.trial(HEARTBEAT=15) as trial:
        for run in range(runs):
            trial.requests(1, events=100, padded=50, padding=10_000)
            trial.wait_until("it is dead", partial(has_dead, trial, run + 1))
            trial.hit()
            trial.settle()
        tried = rig.proxy.accepted
        confirmed = trial.stats("confirmed")
        trial.requests(1, events=1, padded=0, padding=10_000)
        trial.expect("dead at once", trial.stats("dead") == runs + 1)
        trial.expect("the connection was not lost", rig.proxy.accepted == tried)
        trial.expect("99 of 100", confirmed == 99 * runs or rig.is_baseline)
    trial.expect("none is dropped", not trial.figures.dropped)
    return trial.figures


@row(
    21,
    "password changed, permission revoked",
    holds="events retained; few log lines; no credential in any log; recovers",
    short=2,
    long=20,
    confirms=2 * SOME * EVENTS,
)
def locked_out(rig: Rig, runs: int) -> Figures:
    found = Figures()
    doors = itertools.cycle((changed_password, revoked_permission))
    for _, door in zip(range(runs), doors, strict=False):
        with user(rig) as name:
            url = rig.proxy.url.replace("guest:guest", f"{name}:{PASSWORD}")
            with rig.trial(BROKER_URL=url) as trial:
                trial.requests(SOME)
                trial.settle()
                with door(rig, name) as reason:
                    rig.node.close_all_connections()
                    trial.requests(SOME)
                    tried = rig.proxy.accepted
                    trial.wait_until("it is reported", partial(reports, trial, reason))
                    time.sleep(1)
                    tried = rig.proxy.accepted - tried
                    trial.expect(f"at most 10 connects, not {tried}", tried <= 10)
                    trial.expect("all are retained", trial.stats("retained") > 0)
                    trial.hit()
                trial.settle()
            expect_quiet_log(trial)
        found.add(trial.figures)
    return found


def await_refusal(trial: Trial) -> None:
    """Wait until events are retained; the baseline retains none."""
    trial.wait_until("some are retained", lambda: trial.stats("retained") > 0)
    trial.hit()


def expect_quiet_log(trial: Trial) -> None:
    """The log must not contain a credential, or the same line again and again."""
    log = trial.log
    trial.expect("no password in the log", PASSWORD not in log)
    begins = ("Broker unavailable", "Broker still", "Broker available")
    about = [line for line in log.splitlines() if line.startswith(begins)]
    trial.expect(f"a few lines, not {len(about)}", 1 <= len(about) <= 4)


def reports(trial: Trial, reason: str) -> bool:
    """Whether the app reports the reason."""
    return reason in str(trial.stats("broker_error"))


def has_dead(trial: Trial, number: int) -> bool:
    """Whether *number* events are dead."""
    return bool(trial.stats("dead") == number)


def room_was_enough(trial: Trial) -> bool:
    """Make room in the queues; returns whether everything was delivered."""
    trial.drain()
    return not (trial.stats("retained") or trial.stats("in_flight"))


def closed_channels(rig: Rig) -> int:
    """How often the broker has closed a channel because an exchange is missing."""
    return rig.node.log.count("operation basic.publish caused a channel exception")


def bind(
    trial: Trial, exchange: str, kind: str = "direct", key: str | None = None
) -> None:
    """Declare an exchange, and bind the app's queue to it."""
    with trial.node.channel() as channel:
        channel.exchange_declare(exchange, kind, durable=True)
        channel.queue_bind(trial.queue, exchange, key)


def delete_exchange(rig: Rig, exchange: str) -> None:
    with rig.node.channel() as channel:
        channel.exchange_delete(exchange)


@contextmanager
def limited_messages(rig: Rig, size: int) -> Iterator[None]:
    """Make the broker refuse larger messages; *size* is in bytes."""
    _limit_messages(rig, size)
    try:
        yield
    finally:
        _limit_messages(rig, 16 * 1024 * 1024)


def _limit_messages(rig: Rig, size: int) -> None:
    # RabbitMQ 4 also stores the limit in a second place.
    rig.node.eval(
        f"application:set_env(rabbit, max_message_size, {size}),"
        f" persistent_term:put(max_message_size, {size})."
    )


@contextmanager
def user(rig: Rig) -> Iterator[str]:
    """A user of the broker with all permissions."""
    name = new_name("user")
    as_admin(rig, "add_user", name, PASSWORD)
    as_admin(rig, "set_permissions", name, "/", ".*", ".*", ".*")
    try:
        yield name
    finally:
        as_admin(rig, "delete_user", name)


@contextmanager
def changed_password(rig: Rig, name: str) -> Iterator[str]:
    """Change the user's password during the block; yields the app's reason."""
    as_admin(rig, "change_password", name, "another")
    try:
        yield "wrong user name or password"
    finally:
        as_admin(rig, "change_password", name, PASSWORD)


@contextmanager
def revoked_permission(rig: Rig, name: str) -> Iterator[str]:
    """Revoke the user's write permission during the block; yields the app's reason."""
    as_admin(rig, "set_permissions", name, "/", ".*", "^$", ".*")
    try:
        yield "ACCESS_REFUSED"
    finally:
        as_admin(rig, "set_permissions", name, "/", ".*", ".*", ".*")


def as_admin(rig: Rig, action: str, *words: str) -> None:
    """Change users or permissions."""
    given = ", ".join(f'<<"{word}">>' for word in (*words, "test"))
    rig.node.eval(f"rabbit_auth_backend_internal:{action}({given}).")
