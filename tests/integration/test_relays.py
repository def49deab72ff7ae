"""Relays with RabbitMQ and real databases, while they are killed, frozen and replaced.

`RELAY_KILLS=100` runs the long form, with workers that are processes of their own, and
in which the database and RabbitMQ are killed, too.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.leader import leader
from tests.helpers import DEADLINE, freeze, unmeasured, wait_until
from tests.integration.outbox_place import (
    DATABASES,
    Comparison,
    Place,
    open_place,
)
from tests.integration.outbox_shop import OrderShop, open_order_shop

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("RELAY_KILLS", "0"))
#: Relays at a time.
RELAYS = 3
WORKERS = 8 if KILLS else 3
#: Seconds; so short that some run out, and longer than any test.
SHORT, LONG = 1.0, 600.0


class Relay:
    """A process of `flask events relay`."""

    def __init__(self, place: Place, lease: float) -> None:
        environment = {
            "DATABASE_URL": place.url,
            "FLASK_EVENTCOLLECTOR_BROKER_URL": place.broker.url,
            "FLASK_EVENTCOLLECTOR_OUTBOX_RELAY": "external",
            "FLASK_EVENTCOLLECTOR_OUTBOX_LEASE": str(lease),
            "FLASK_EVENTCOLLECTOR_RETRY_MAX_DELAY": "1",
            # What is in flight at its end is not sent twice.
            "FLASK_EVENTCOLLECTOR_SHUTDOWN_TIMEOUT": str(DEADLINE / 2),
            "PYTHONPATH": str(ROOT),
        }
        program = [sys.executable, "-m", "flask", "--app", "tests.cli.outbox_app"]
        self._process = subprocess.Popen(
            [*program, "events", "relay", "--json"],
            cwd=ROOT,
            env=unmeasured() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid

    def freeze(self) -> None:
        freeze(self.pid)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self) -> int:
        """End it as a service manager does; returns how many leases it has lost."""
        assert self._process.stdout is not None
        # From here on, it is told of signals.
        assert self._process.stdout.readline()
        self._process.terminate()
        output, _ = self._process.communicate(timeout=DEADLINE)
        assert self._process.returncode == 0
        lost: int = json.loads(output.splitlines()[-1])["lost_leases"]
        return lost


@dataclass
class RelayedPlace(Place):
    """A place with relays."""

    relays: list[Relay] = field(default_factory=list)
    lost_leases: int = 0

    def start_relays(self, lease: float) -> None:
        while len(self.relays) < RELAYS:
            self.relays.append(Relay(self, lease))

    def active(self, shop: OrderShop) -> Relay:
        """The relay that is active, once there is one."""
        found: list[Relay] = []
        database = Database(shop.engine, shop.table)

        def find() -> bool:
            name = leader(database, "shop") or ""
            found.extend(r for r in self.relays if name.endswith(f"process {r.pid}"))
            return bool(found)

        try:
            wait_until(find, "a relay is active")
        finally:
            database.close()
        return found[0]

    def wait_for_another(self, shop: OrderShop, relay: Relay) -> None:
        """Wait until *relay* is not the active one any more."""
        wait_until(
            lambda: self.active(shop) is not relay, "another one is the active one"
        )

    def end_relays(self) -> None:
        while self.relays:
            self.lost_leases += self.relays.pop().end()

    def close(self) -> None:
        for relay in self.relays:
            relay.kill()


@pytest.fixture(params=DATABASES)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, queue_name: str
) -> Iterator[RelayedPlace]:
    with open_place(request, tmp_path, queue_name, is_killed=bool(KILLS)) as place:
        relayed = RelayedPlace(**vars(place))
        try:
            yield relayed
        finally:
            relayed.close()


@contextmanager
def working(place: Place) -> Iterator[OrderShop]:
    """A shop, and workers that place orders until the end of the block."""
    with ExitStack() as stack:
        shop = stack.enter_context(
            open_order_shop(place.url, place.broker.url, place.queue, "external")
        )
        shop.create_tables()
        if KILLS:
            stack.callback(_end, [_worker(place, f"{n}") for n in range(WORKERS)])
            yield shop
            return
        is_over = threading.Event()
        threads = [
            threading.Thread(target=shop.work, args=[f"{n}", is_over.is_set])
            for n in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield shop
        finally:
            is_over.set()
            for thread in threads:
                thread.join(DEADLINE)


def _worker(place: Place, label: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "tests.integration.outbox_shop"]
    return subprocess.Popen(
        [*program, place.url, place.broker.url, place.queue, label, "external"],
        cwd=ROOT,
        env=unmeasured() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _end(workers: Iterable[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()


def compare(place: RelayedPlace) -> Comparison:
    """Wait until all is sent, end the relays, and compare."""
    with open_order_shop(place.url, place.broker.url, place.queue, "external") as shop:
        left, began = shop.rows(), time.monotonic()
        wait_until(lambda: not shop.rows(), "all rows are sent and erased")
        seconds = time.monotonic() - began
        place.end_relays()
        found = Comparison(shop.orders(), place.broker.get_all(place.queue))
    sys.stdout.write(
        f"{found}; {left} rows left, sent within {seconds:.1f} s;"
        f" {place.lost_leases} leases lost\n"
    )
    assert found.orders
    assert not found.ghosts
    assert not found.lost
    return found


def test_relays_are_killed(place: RelayedPlace) -> None:
    with working(place) as shop:
        for number in range(KILLS or 2):
            place.start_relays(SHORT)
            active = place.active(shop)
            time.sleep(random.uniform(0, 0.4))
            _disturb(place, number)
            active.kill()
            place.relays.remove(active)
        place.start_relays(SHORT)
    found = compare(place)
    assert not found.unmarked
    if not KILLS:
        assert not found.disordered


def _disturb(place: RelayedPlace, number: int) -> None:
    """In the long form, now and then kill the database or RabbitMQ, too."""
    server = {4: place.database, 9: place.broker}.get(number % 10)
    if KILLS and server is not None:
        server.kill()
        time.sleep(random.uniform(0, 2 * SHORT))
        server.start()


# SQLite's lock has no lease: whoever is frozen while it holds that stops all others.
@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_relay_is_frozen_past_its_lease(place: RelayedPlace) -> None:
    with working(place) as shop:
        place.start_relays(SHORT)
        for _ in range(KILLS // 10 or 1):
            frozen = place.active(shop)
            time.sleep(random.uniform(0, 0.4))
            frozen.freeze()
            place.wait_for_another(shop, frozen)
            frozen.thaw()
            time.sleep(random.uniform(0, 0.4))
    found = compare(place)
    assert not found.unmarked


def test_while_no_lease_runs_out_nothing_is_sent_twice(place: RelayedPlace) -> None:
    with working(place) as shop:
        place.start_relays(LONG)
        for _ in range(KILLS // 10 or 1):
            active = place.active(shop)
            time.sleep(0.5)
            place.relays.remove(active)
            place.lost_leases += active.end()
            # It does not wait for the lease.
            place.active(shop)
            place.start_relays(LONG)
    found = compare(place)
    assert not found.copies
    assert not found.disordered
    assert place.lost_leases == 0
