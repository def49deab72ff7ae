"""Runs a private app under load and faults, and judges what has arrived."""

from __future__ import annotations

import itertools
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..brokers.rabbitmq.inspection import BrokerUnreachable, connecting
from ..brokers.rabbitmq.logins import Logins
from ..brokers.rabbitmq.scratch_queue import QueueRefused, ScratchQueue
from ..config.broker_url import BrokerURL
from ..delivery.signal import Signal
from ..stores.spool.folder import creator_of
from ..stores.spool.recovery.salvage import intact_rows
from . import network, side_file
from .load import Load
from .oracle import copy_of
from .proxy import Proxy
from .report import Evidence, Figures, judge
from .restarts import Restart, RestartFailed
from .strokes import BROKER_RESTARTED, WORKER_KILLED, Stroke, strokes
from .workers import WorkerFailed, Workers

#: Of the queue, of the folder, and of the connections.
NAME = "eventcollector-verify"
#: Threads that send requests, at most.
_CLIENTS = 8
#: One request of so many is refused by the app, so its events must not arrive.
_REFUSED = 10
#: Seconds between two looks.
_TICK = 0.1
#: Seconds from the declaration of the queue to the first fault: RabbitMQ before 3.12
#: writes down after a second or two that there is a queue.
_UNHARMED = 4.0
#: Seconds for the delivery of everything once the load has ended, and for a broker to
#: accept connections after its start.
SETTLE, _BACK = 120.0, 120.0
#: Seconds that a run may take besides its load, with all that may take long.
_LONGER = 600.0
#: Seconds after which the broker deletes the queue, if this process can't any more.
EXPIRY = 3600
#: Seconds of a heartbeat on the connections of the run itself.
_HEARTBEAT = 10
#: What a worker counts that is not delivered yet.
_UNDELIVERED = ("collected", "in_flight", "retained", "unadopted")


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    urls: tuple[BrokerURL, ...]
    #: How long the load lasts.
    seconds: float
    #: Of the faults.
    seed: int
    #: ``spool`` or ``memory``.
    backlog: str = "spool"
    workers: int = 3
    #: Requests a second.
    rate: int = 50
    #: ``classic`` or ``quorum``; ``None``: what the virtual host has by default.
    queue_type: str | None = None
    #: Restarts the broker; ``None``: nothing may.
    restart: Restart | None = None

    @property
    def longest(self) -> float:
        """The most seconds that the run may take."""
        return self.seconds + _LONGER


class Progress(NamedTuple):
    """How far a run is."""

    #: Seconds since the load has begun.
    elapsed: float
    requests: int
    acknowledged: int
    strokes: int
    #: What happens now.
    doing: str


class NotRun(Exception):
    """The run could not be finished, so nothing is known."""


#: Shows how far a run is, now and then.
Show = Callable[[Progress], None]


def new_queue(plan: Plan) -> ScratchQueue:
    """The queue of a run, with a name that nobody else has."""
    connect = connecting(plan.urls, _HEARTBEAT, NAME, Logins(None, None, NAME))
    arguments: dict[str, Any] = {"x-expires": EXPIRY * 1000}
    if plan.queue_type is not None:
        arguments["x-queue-type"] = plan.queue_type
    return ScratchQueue(connect, f"{NAME}-{secrets.token_hex(6)}", arguments)


class Run:
    """One run, in the main thread.

    :param stop: ends the load early.
    :param warn: tells of something that could not be cleaned up.
    """

    def __init__(
        self, plan: Plan, stop: Signal, show: Show, warn: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._stop = stop
        self._show = show
        self._warn = warn
        self._queue = new_queue(plan)
        self._workers: Workers
        self._load: Load
        self._proxies: list[Proxy] = []
        self._struck: Counter[str] = Counter()
        self._began_at = time.monotonic()
        #: Seconds of the load.
        self._lasted = 0.0
        self._doing = "starting"
        #: How many answers were counted, and their events.
        self._counted = self._acknowledged = 0
        #: The broker's product and version, once it is known.
        self.broker = ""

    def carry_out(self) -> Figures:
        """Carry it out; leaves nothing behind, however it ends.

        :raises NotRun: it could not be finished. The text has no credential.
        :raises Interrupted: it was ended.
        """
        try:
            with ExitStack() as stack:
                return self._carry_out(stack)
        except BrokerUnreachable as error:
            raise NotRun(f"no connection to the broker: {error}") from error
        except QueueRefused as error:
            raise NotRun(f"the broker refused something: {error}") from error
        except (RestartFailed, WorkerFailed) as error:
            raise NotRun(str(error)) from error

    def _carry_out(self, stack: ExitStack) -> Figures:
        temporary: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(
            prefix=f"{NAME}-", ignore_cleanup_errors=True
        )
        folder = Path(stack.enter_context(temporary))
        self.broker = self._queue.check_broker()
        stack.callback(self._delete_queue)
        self._queue.declare()
        harmless_until = time.monotonic() + _UNHARMED
        for url in self._plan.urls:
            self._proxies.append(stack.enter_context(Proxy(url.port, url.host)))
        workers = Workers(
            self._plan.workers, self._settings(folder), self._queue.name, folder
        )
        self._workers = stack.enter_context(workers)
        self._under_load(harmless_until)
        delivered_after = self._settle(folder / "spool")
        self._workers.end()
        return self._judge(folder, delivered_after)

    def _settings(self, folder: Path) -> Mapping[str, Any]:
        urls = zip(self._plan.urls, self._proxies, strict=True)
        settings = {
            "BROKER_URL": [through(proxy.port, url) for url, proxy in urls],
            "BACKLOG": self._plan.backlog,
            "SPOOL_DIR": str(folder / "spool"),
        }
        return {f"EVENTCOLLECTOR_{name}": value for name, value in settings.items()}

    # The load and the faults.

    def _under_load(self, harmless_until: float) -> None:
        clients = min(_CLIENTS, self._plan.rate)
        pause = clients / self._plan.rate
        # Clients don't give up: for a moment, there may be no worker.
        self._load = Load(self._workers.port, clients, pause, tries=10**9)
        self._began_at, self._doing = time.monotonic(), "load"
        with self._load.running(_paths()):
            try:
                self._wait(harmless_until - time.monotonic())
                restarts = self._plan.restart is not None
                for stroke in strokes(self._plan.seed, restarts=restarts):
                    self._wait(stroke.pause)
                    if self._is_over:
                        break
                    self._strike(stroke)
            finally:
                self._load.stop()
                self._lasted = time.monotonic() - self._began_at

    @property
    def _is_over(self) -> bool:
        elapsed = time.monotonic() - self._began_at
        return elapsed >= self._plan.seconds or self._stop.is_set()

    def _strike(self, stroke: Stroke) -> None:
        self._doing = stroke.name
        self._tick()
        if stroke.name == WORKER_KILLED:
            self._kill(stroke.victim)
        elif stroke.name == BROKER_RESTARTED:
            self._struck[stroke.name] += 1
            assert self._plan.restart is not None  # noqa: S101 - it has been asked for
            self._plan.restart(self._tick)
            self._await_broker()
        else:
            with ExitStack() as faults:
                for proxy in self._proxies:
                    faults.enter_context(network.FAULTS[stroke.name](proxy))
                self._struck[stroke.name] += 1
                self._wait(stroke.seconds / 2)
                self._kill(stroke.victim)
                self._wait(stroke.seconds / 2)
        self._doing = "load"

    def _kill(self, victim: float | None) -> None:
        if victim is not None:
            self._workers.kill_one(victim)
            self._struck[WORKER_KILLED] += 1

    def _await_broker(self) -> None:
        deadline = time.monotonic() + _BACK
        while True:
            try:
                self._queue.check_broker()
            except (BrokerUnreachable, QueueRefused) as error:
                if time.monotonic() > deadline:
                    raise NotRun(f"the broker did not come back: {error}") from error
                self._tick()
            else:
                return

    # The end.

    def _settle(self, spool: Path) -> float | None:
        """Wait until all is delivered; returns for how many seconds, if it is."""
        self._doing = "delivering"
        for proxy in self._proxies:
            network.heal(proxy)
        began = time.monotonic()
        quiet: set[int] = set()
        while time.monotonic() - began < SETTLE:
            counts = self._workers.stats()
            if counts and not any(counts[state] for state in _UNDELIVERED):
                quiet.add(counts["pid"])
            if quiet >= self._workers.pids and not self._orphans(spool):
                return time.monotonic() - began
            self._tick()
        return None

    def _orphans(self, spool: Path) -> list[Path]:
        """The files of workers that were killed."""
        alive = self._workers.pids
        return [f for f in spool.glob("*.spool") if creator_of(f) not in alive]

    def _judge(self, folder: Path, delivered_after: float | None) -> Figures:
        self._doing = "reading"
        self._tick()
        notes = self._workers.side_file
        evidence = Evidence(
            answers=self._load.answers,
            attempted=side_file.read(notes),
            confirmed=side_file.read(side_file.confirmed_in(notes)),
            dropped=side_file.read(side_file.dropped_in(notes)),
            on_disk=_on_disk(folder / "spool"),
            arrived=[copy_of(*message) for message in self._queue.take_all()],
            killed=self._workers.killed,
            strokes=MappingProxyType(self._struck),
            delivered_after=delivered_after,
            lasted=self._lasted,
        )
        figures = judge(evidence, in_memory=self._plan.backlog == "memory")
        if not figures.acknowledged:
            raise NotRun("no request was acknowledged, so nothing was tested")
        return figures

    def _delete_queue(self) -> None:
        try:
            self._queue.delete()
        except (BrokerUnreachable, QueueRefused) as error:
            self._warn(
                f"The queue {self._queue.name} could not be deleted: {error}. The"
                f" broker deletes it after {EXPIRY // 60} minutes without use."
            )

    # In between.

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._is_over:
            self._tick()

    def _tick(self) -> None:
        self._workers.check()
        self._show(self._progress())
        time.sleep(_TICK)

    def _progress(self) -> Progress:
        answers = self._load.answers
        new = answers[self._counted :]
        self._counted += len(new)
        self._acknowledged += sum(len(a.keys) for a in new if a.ok)
        elapsed = time.monotonic() - self._began_at
        struck = sum(self._struck.values())
        return Progress(elapsed, self._counted, self._acknowledged, struck, self._doing)


def _paths() -> Iterator[str]:
    """Requests without an end."""
    for order in itertools.count(1):
        yield f"/orders/{order}{'' if order % _REFUSED else '/refused'}"


def through(port: int, url: BrokerURL) -> str:
    """The URL of the same broker through a proxy on this machine, with its password."""
    options = dict(url.options)
    if url.scheme == "amqps":
        # The certificate has the broker's name.
        options.setdefault("server_name_indication", url.zoneless_host)
    there = replace(url, host="127.0.0.1", port=port, options=options)
    return there.with_password()


def _on_disk(spool: Path) -> set[str]:
    """The events that the workers left."""
    files = spool.glob("*.spool")
    return {s.event.payload["key"] for file in files for s in intact_rows(file)}
