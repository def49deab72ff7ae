"""A broker, a proxy in front of it, and apps that use both."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flask_eventcollector.stores.spool.folder import creator_of
from flask_eventcollector.stores.spool.recovery.salvage import intact_rows
from flask_eventcollector.verifying.load import Answer, Load, p99, post
from flask_eventcollector.verifying.oracle import check, copy_of
from tests.faults import side_file
from tests.faults.app import OWN_THREADS, THREAD_TIMEOUT
from tests.faults.figures import (
    LONGER,
    LONGER_WHEN_BUSY,
    SLOWEST,
    SLOWEST_WHEN_BUSY,
    Figures,
)
from tests.faults.hosts import Host, HostError, is_running, wait_for
from tests.faults.proxy import Proxy
from tests.faults.state import Database, Databases, Watch
from tests.rabbitmq import Message, RabbitMQNode

#: The timeout in seconds for the delivery of all events once the fault is over.
SETTLE_TIMEOUT = 60.0
#: `SHUTDOWN_TIMEOUT`, the wait for a thread that hangs, and more, for a busy machine.
#: That the former is not waited for twice is in tests/integration/test_exit.py.
LONGEST_EXIT = 2.0 + THREAD_TIMEOUT + 5.0
#: The states of events that are not delivered yet.
UNDELIVERED = ("collected", "in_flight", "retained", "unadopted")
#: Events that each request enqueues.
EVENTS = 5
#: Makes the app note the events that the library reports as published.
NOTED = {"NOTE_CONFIRMED": 1}
#: These keep runs short; a row may override them.
SETTINGS: dict[str, Any] = {"HEARTBEAT": 1, "RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 1}
#: `OUTBOX_LEASE` in seconds.
LEASE = 2.0
#: In which database the outbox is, by the name of the mode.
OUTBOXES = {f"outbox-{kind}": kind for kind in ("postgresql", "sqlite", "mariadb")}
#: Where events are kept, by the name of the mode.
MODES: dict[str, dict[str, Any]] = {
    "memory": {},
    "spool": {"BACKLOG": "spool", "SPOOL_DIR": "spool"},
    **{name: {"OUTBOX_LEASE": LEASE} for name in OUTBOXES},
}
#: The names of the naive publisher and of the naive outbox, in place of a mode.
BASELINE, NAIVE_OUTBOX = "naive", "naive-outbox"
BASELINES = (BASELINE, NAIVE_OUTBOX)
#: The database of each mode that has one.
DATABASES = {**OUTBOXES, NAIVE_OUTBOX: "postgresql"}
#: What sends the rows of the outbox in addition to the workers, and how many at least.
_RELAYS = {NAIVE_OUTBOX: ("naive-relay", 1)}

_numbers = itertools.count(1)


@dataclass
class Rig:
    """The environment of all rows."""

    node: RabbitMQNode
    proxy: Proxy
    #: One of `MODES` or `BASELINES`.
    mode: str = "memory"
    databases: Databases = field(default_factory=Databases)
    kind: str = "gunicorn-gthread"
    #: More options for its command line.
    options: tuple[str, ...] = ()
    random: random.Random = field(default_factory=lambda: random.Random(1))
    #: Where each trial leaves its files; ``None``: they are removed when it ends.
    folder: Path | None = None
    #: Whether other work may stall this machine, as in a run of the tests.
    is_busy: bool = False

    @property
    def longer(self) -> float:
        """How much longer the slowest of 100 requests may take, in seconds."""
        return LONGER_WHEN_BUSY if self.is_busy else LONGER

    @property
    def slowest(self) -> float:
        """The most seconds that any request may take."""
        return SLOWEST_WHEN_BUSY if self.is_busy else SLOWEST

    @property
    def is_baseline(self) -> bool:
        """Whether a naive publisher is used instead of the library."""
        return self.mode in BASELINES

    def restore(self) -> None:
        """Restore the initial state of the broker and the proxy."""
        self.proxy.restore()
        self.node.restore()

    @contextmanager
    def trial(
        self,
        *,
        workers: int = 1,
        broker_is_up: bool = True,
        kind: str | None = None,
        options: Sequence[str] = (),
        asks: Mapping[str, str | int] | None = None,
        relays: int = 0,
        **settings: Any,
    ) -> Iterator[Trial]:
        """Run a new app; at the end, it has delivered everything, and is checked.

        *asks* are more of the variables that the app under test reads. A row that is
        about one *kind* of workers names it, with more options for its command line.
        *relays* are processes beside the workers, which send the rows of the outbox.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(self._new_folder())
            queue = new_name("orders")
            settings = {**self.settings(folder), **settings}
            database = self._new_database(folder)
            new_host = partial(
                Host,
                folder=folder,
                settings=settings,
                queue=queue,
                publisher=self.mode if self.is_baseline else "library",
                asks={**_asks(database), **(asks or {})},
            )
            host = new_host(
                kind or self.kind, workers=workers, options=[*self.options, *options]
            )
            spool = Path(settings.get("SPOOL_DIR", folder / "spool"))
            trial = Trial(self, host, queue, spool)
            if broker_is_up:
                trial.declare(trial.queue)
            stack.enter_context(trial.host)
            if database is not None:
                lease = settings.get("OUTBOX_LEASE", 0.0)
                trial.watch = stack.enter_context(Watch(database, lease))
            kind, least = _RELAYS.get(self.mode, ("relay", 0))
            for _ in range(max(relays, least)):
                trial.relays.append(stack.enter_context(new_host(kind)))
            yield trial
            trial.finish()

    def _new_database(self, folder: Path) -> Database | None:
        kind = DATABASES.get(self.mode)
        return None if kind is None else self.databases.new(kind, folder)

    @contextmanager
    def _new_folder(self) -> Iterator[Path]:
        prefix = "eventcollector-faults-"
        if self.folder is not None:
            yield Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
            return
        with tempfile.TemporaryDirectory(
            prefix=prefix, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)

    def settings(self, folder: Path) -> dict[str, Any]:
        """The library's settings, unless a row overrides them."""
        mode = dict(MODES.get(self.mode, {}))
        if "SPOOL_DIR" in mode:
            mode["SPOOL_DIR"] = str(folder / "spool")
        return {"BROKER_URL": self.proxy.url, **SETTINGS, **mode}


class Trial:
    """An app under test: its requests, its responses, and the events that arrived."""

    def __init__(self, rig: Rig, host: Host, queue: str, spool: Path) -> None:
        self.rig = rig
        self.node, self.proxy = rig.node, rig.proxy
        self.host = host
        #: Watches the database, if there is one.
        self.watch: Watch | None = None
        #: The processes that send the rows of the outbox.
        self.relays: list[Host] = []
        self.queue = queue
        #: The folder of the spool, if the app has one.
        self.spool = spool
        self.queues: list[str] = []
        self.figures = Figures()
        self.arrived: list[Message] = []
        self.load = Load(self.host.port, patience=2.0 if rig.is_baseline else 10.0)
        self._orders = itertools.count(1)
        self._ended = False
        #: The states in which no event may be at the end.
        self.undelivered: tuple[str, ...] = UNDELIVERED
        #: What the app has logged, once it has ended.
        self.log = ""
        #: The events of forked children, which reported them as published.
        self.forked: list[str] = []
        self._may_lose: frozenset[str] = frozenset()
        #: Acknowledged events that neither arrived nor are on disk, dropped or not.
        self.missing: frozenset[str] = frozenset()

    # Called by rows.

    def requests(
        self, number: int, *, pause: float = 0.01, **query: str | int
    ) -> list[Answer]:
        """Send *number* requests; return when all are answered."""
        before = len(self.load.answers)
        with self.under_load(number, pause=pause, **query):
            pass
        return self.load.answers[before:]

    @contextmanager
    def under_load(
        self, number: int, *, pause: float = 0.05, **query: str | int
    ) -> Iterator[None]:
        """Send requests while the block runs, and until all are answered."""
        self.load.pause = pause
        before = len(self.load.answers)
        with self.load.running(self.paths(number, query)):
            # The fault is injected once the load is well under way.
            under_way = before + number // 10
            while self.load.is_running and len(self.load.answers) < under_way:
                time.sleep(0.002)
            yield

    def request(self, **query: str | int) -> Answer:
        """Send one request; return its answer, which may be none."""
        (path,) = self.paths(1, query)
        answer = post(self.load.port, path, self.load.patience)
        self.load.answers.append(answer)
        return answer

    def hit(self, times: int = 1) -> None:
        """Count a fault."""
        self.figures.hits += times

    def compare(self, healthy: Sequence[Answer], faulty: Sequence[Answer]) -> None:
        """Note how much longer requests took under the fault, in one run."""
        self.figures.longer.append(p99(faulty) - p99(healthy))

    def expect(self, what: str, holds: bool) -> None:
        """Note a broken promise; the baseline promises nothing."""
        if not holds and not self.rig.is_baseline:
            self.figures.broken.append(f"expected: {what}")

    def expect_confirmed(self, number: int, *, since: int = 0) -> None:
        """At least *number* events are confirmed, while others are refused."""
        self.wait_until(
            f"{number} are confirmed", lambda: self.stats("confirmed") - since >= number
        )

    def expect_no_vain_wait(self) -> None:
        """No request waited for confirms of what was not even sent.

        By the app's count: on a busy machine, any request may take long.
        """
        vain = self.stats("waits_in_vain")
        self.expect(f"no wait in vain, not {vain}", not vain)

    def wait_until(
        self, what: str, holds: Callable[[], bool], timeout: float = 30.0
    ) -> float:
        """Wait until the library has done something; return the seconds it took."""
        began = time.monotonic()
        while not self.rig.is_baseline and not holds():
            if time.monotonic() - began > timeout:
                self.expect(f"{what} within {timeout:.0f} s", False)
                break
            time.sleep(0.01)
        return time.monotonic() - began

    def wait_for_broker(self, state: str) -> None:
        """Wait until the app shows the broker in this state."""
        self.wait_until(f"the broker is {state}", lambda: self.shows(state))

    def shows(self, *states: str) -> bool:
        """Whether the app shows the broker in one of these states."""
        return self.stats("broker") in states

    def stats(self, name: str) -> Any:
        """One of the figures of the app, or of the worker that answers."""
        # The baseline has no figures, and may not answer at all.
        return 0 if self.rig.is_baseline else self.host.stats()[name]

    def declare(self, queue: str | None = None, **arguments: str | int | bool) -> str:
        """Declare a queue, which is drained at the end; return its name."""
        queue = queue or new_name("other")
        self.queues.append(self.node.declare(queue, **arguments))
        return queue

    def drain(self) -> None:
        """Consume everything that has arrived in the queues."""
        for queue in self.queues:
            self.arrived += self.node.get_all(queue)

    def settle(self) -> None:
        """Wait until everything is delivered, including events of dead workers."""
        quiet: set[int] = set()

        def all_are_quiet() -> bool:
            books = self.host.stats()
            if not any(books[state] for state in self.undelivered):
                quiet.add(books["pid"])
            return quiet >= set(self.host.worker_pids) and not self._is_anything_left()

        if self.rig.mode == NAIVE_OUTBOX:
            wait_for(lambda: not self.database.unsent(), "its loop", SETTLE_TIMEOUT)
        self.wait_until("all is delivered", all_are_quiet, SETTLE_TIMEOUT)

    def _is_anything_left(self) -> bool:
        """Whether dead processes have left events that somebody must deliver."""
        return bool(self._orphans() or (self.watch and self.database.unsent()))

    @property
    def database(self) -> Database:
        """Where its state is."""
        assert self.watch is not None, "it has no database"
        return self.watch.database

    @property
    def done(self) -> int:
        """How many events belong to finished units of work outside of requests."""
        return len(self._noted(side_file.done_in))

    @property
    def logged_drops(self) -> int:
        """How many events were dropped according to the complete log."""
        line = rf"Dropped (\d+) events? for {re.escape(self.queue)}:"
        return sum(map(int, re.findall(line, self.log)))

    def may_lose_unconfirmed(self, pid: int | None = None) -> None:
        """This process, or the only one, was killed: memory loses the events it held.

        These are at most the events that it had not reported as published. The app must
        have been asked to note those.
        """
        if self.rig.mode == "memory":
            open_ones = self._acknowledged() - self._confirmed()
            self.may_lose(k for k in open_ones if pid in (None, _process_of(k)))

    def may_lose(self, keys: Iterable[str]) -> None:
        """These events may be lost without a report by the library."""
        self._may_lose |= frozenset(keys)
        self.figures.may_be_lost = len(self._may_lose)

    @property
    def most_copies(self) -> int:
        """How often the most frequent event has arrived."""
        arrived = Counter(message.json()["key"] for message in self.arrived)
        return max(arrived.values(), default=0)

    def resident_bytes(self) -> int:
        """The memory of all workers."""
        return sum(_resident_bytes(pid) for pid in self.host.worker_pids)

    # The end.

    def expect_bounded_exit(self, *, itself: float = 0.0) -> None:
        """End the app, which may take its `SHUTDOWN_TIMEOUT`, and a little more.

        *itself* are the seconds that its host would take without the library.
        """
        seconds = self.end()
        most = LONGEST_EXIT + itself
        self.expect(f"it ends within {most:.0f} s, not {seconds:.1f} s", seconds < most)

    def finish(self) -> None:
        """Wait for all deliveries, end the app, and check what arrived."""
        if not self._ended:
            self.proxy.restore()
            if self.host.kind.serves:
                self.settle()
            self._end_relays()
            self.expect_bounded_exit()
            self._expect_no_thread_left()
        self.log = self.host.log
        self.drain()
        self._judge()
        self._expect_discreet_log()

    def _end_relays(self) -> None:
        for relay in self.relays:
            relay.end()
        # Their last words, which they write in JSON.
        for line in self.host.log.splitlines():
            if line.startswith("{") and '"role": "ended"' in line:
                self.figures.lost_leases += json.loads(line)["lost_leases"]

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """End the app by a signal; return the seconds that it took."""
        return self.await_end(lambda: self.host.end(number))

    def await_end(self, end: Callable[[], float] | None = None) -> float:
        """Wait until the app has ended, by *end* or on its own; return the seconds."""
        dead = self._dead()
        self._ended = True
        try:
            seconds = (end or self.host.wait)()
        except HostError as error:
            self.expect(f"it ends in time ({error})", False)
            self.host.close()
            return float("inf")
        for pid, books in self.host.last_books().items():
            self.figures.add_books(books, dead[pid])
        return seconds

    def _expect_no_thread_left(self) -> None:
        """Each process ended the library's threads before it exited."""
        for books in self.host.last_books().values():
            left = [name for name in books["threads"] if name.startswith(OWN_THREADS)]
            self.expect(f"no thread is left, not {left}", not left)

    def _expect_discreet_log(self) -> None:
        """The log must not contain a payload or a credential."""
        planted = [*side_file.read(self.host.side_file), "guest:guest"]
        found = sum(marker in self.log for marker in planted)
        self.expect(f"no secret in the log, not {found}", not found)

    def _dead(self) -> Counter[int]:
        """How many events are dead in a worker."""
        if self.rig.is_baseline or not self.host.kind.serves:
            return Counter()
        books = self.host.stats()
        return Counter({books["pid"]: books["dead"]})

    def _judge(self) -> None:
        found = self.figures
        answers = self.load.answers
        tried = side_file.read(self.host.side_file)
        verdict = check(
            tried, self._acknowledged(), (copy_of(*m) for m in self.arrived)
        )
        on_disk = self._on_disk()
        self.missing = verdict.lost - on_disk
        found.kept = len(verdict.lost & on_disk)
        dropped = self._noted(side_file.dropped_in)
        lost = self.missing - dropped
        self.expect("only events are lost that may be", lost <= self._may_lose)
        # A process that is killed at the end may have reported more than it has
        # counted.
        signalled = f"each drop is signalled, not {len(dropped)} of {found.dropped}"
        self.expect(signalled, len(dropped) >= found.dropped)
        arrived = {message.json()["key"] for message in self.arrived}
        self.expect(
            "all events reported as published arrived", self._confirmed() <= arrived
        )
        found.attempts = len(verdict.attempted)
        found.acknowledged = len(verdict.acknowledged)
        found.lost = len(lost)
        found.duplicated = len(verdict.duplicated)
        found.recovered = len(verdict.recovered)
        found.unexpected = len(verdict.unexpected)
        found.unmarked = len(verdict.unmarked)
        found.failed = sum(not answer.ok for answer in answers)
        found.slowest = max((a.seconds for a in answers), default=0.0)
        if self.watch is not None:
            self._compare_with_state(self.watch, arrived)

    def _compare_with_state(self, watch: Watch, arrived: set[str]) -> None:
        """Compare what has arrived with what is committed."""
        found, committed = self.figures, watch.database.committed()
        found.committed = len(committed)
        found.ghosts = len(arrived - committed)
        found.zombies = len(committed - arrived)
        found.stuck, found.lease = watch.longest, watch.lease
        # Processes that were killed have left no counts. What has arrived is confirmed
        # by now, since no row is left.
        found.confirmed = max(found.confirmed, len(committed & arrived))

    def _orphans(self) -> list[Path]:
        """The files in the spool whose process has ended, with events to deliver."""
        files = [f for f in self.spool.glob("*.spool") if not is_running(creator_of(f))]
        return [file for file in files if _has_undelivered(file)]

    def _on_disk(self) -> set[str]:
        """The events that the app left in its spool."""
        files = self.spool.glob("*.spool")
        return {s.event.payload["key"] for file in files for s in intact_rows(file)}

    def tried_by(self, pid: int) -> set[str]:
        """The events that this process has tried to enqueue."""
        tried = side_file.read(self.host.side_file)
        return {key for key in tried if _process_of(key) == pid}

    @property
    def reported_quarantined(self) -> set[str]:
        """The names of the files that were reported as quarantined."""
        return self._noted(side_file.quarantined_in)

    def _acknowledged(self) -> set[str]:
        """The events of all requests and other units of work that succeeded."""
        answered = {key for a in self.load.answers if a.ok for key in a.keys}
        answered.update(self.forked)
        return answered | self._noted(side_file.done_in)

    def _confirmed(self) -> set[str]:
        """The events that the app has noted as published, if it was asked to."""
        return self._noted(side_file.confirmed_in)

    def _noted(self, kind: Callable[[Path], Path]) -> set[str]:
        """The keys in one of the files beside the side file."""
        return set(side_file.read(kind(self.host.side_file)))

    def paths(self, number: int, query: Mapping[str, str | int]) -> list[str]:
        """Requests for *number* orders, each with its own number."""
        words = {"events": EVENTS, **query}
        asked = "&".join(f"{name}={value}" for name, value in words.items())
        orders = itertools.islice(self._orders, number)
        return [f"/orders/{order}?{asked}" for order in orders]


def _asks(database: Database | None) -> dict[str, str | int]:
    return {} if database is None else {"DATABASE": database.url}


def _has_undelivered(file: Path) -> bool:
    # The process that adopted it leaves its dead events in it.
    try:
        rows = list(intact_rows(file))
    except FileNotFoundError:
        return False
    return not rows or any(row.dead is None for row in rows)


def _process_of(key: str) -> int:
    """The process that has enqueued the event with this key."""
    return int(key.split("-")[1])


def new_name(prefix: str) -> str:
    """A name that no other trial uses."""
    return f"{prefix}.{time.time_ns()}.{next(_numbers)}"


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return 1024 * int(kilobytes)
