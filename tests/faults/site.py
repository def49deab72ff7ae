"""An app under test on a cluster of three nodes, each behind a proxy."""

from __future__ import annotations

import atexit
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults import side_file
from tests.faults.proxy import Proxy
from tests.faults.rig import NOTED, Rig, Trial, new_name
from tests.rabbitmq import RabbitMQNode
from tests.rabbitmq_cluster import RabbitMQCluster

#: Nodes that start take the processors, and must not end connections by that.
HEARTBEAT = 5


@cache
def shared_cluster() -> RabbitMQCluster:
    """The cluster of all rows, started at the first use; takes half a minute."""
    cluster = RabbitMQCluster()
    atexit.register(cluster.close)
    cluster.start()
    return cluster


class Silence:
    """Measures for how long nothing is confirmed although something waits."""

    def __init__(self, tried: Path) -> None:
        self.longest = 0.0
        self._tried = _Lines(tried)
        self._confirmed = _Lines(side_file.confirmed_in(tried))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Measure until the end of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def _watch(self) -> None:
        since = time.monotonic()
        while not self._ended.wait(0.02):
            now = time.monotonic()
            if self._confirmed.grew() or not self._something_waits():
                since = now
            self.longest = max(self.longest, now - since)

    def _something_waits(self) -> bool:
        self._tried.grew()
        return self._tried.count > self._confirmed.count


class _Lines:
    """Counts the lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.count = 0

    def grew(self) -> bool:
        """Read what is new; returns whether there is something."""
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        self.count += new.count(b"\n")
        return bool(new)


@dataclass
class Site:
    """The cluster with its proxies, and an app that knows all nodes."""

    cluster: RabbitMQCluster
    proxies: list[Proxy]
    trial: Trial
    #: A quorum queue with a replica on each node.
    queue: str
    silence: Silence

    @property
    def attempts(self) -> int:
        """How many connections were made so far."""
        return sum(proxy.accepted for proxy in self.proxies)

    def connections(self, without: RabbitMQNode | None = None) -> int:
        """How many connections there are to nodes other than this one."""
        pairs = zip(self.proxies, self.cluster.nodes, strict=True)
        return sum(p.open_connections for p, node in pairs if node is not without)

    @property
    def used_node(self) -> RabbitMQNode:
        """The node with the most connections."""
        pairs = zip(self.proxies, self.cluster.nodes, strict=True)
        return max(pairs, key=lambda pair: pair[0].open_connections)[1]

    def lead_by(self, node: RabbitMQNode) -> None:
        """Let *node* lead the queue."""
        if self.cluster.leader_of(self.queue, node) is not node:
            self.cluster.move_leader(self.queue, node)

    def move_leader(self) -> None:
        """Let another node lead the queue."""
        leader = self.cluster.leader_of(self.queue, self.cluster.nodes[0])
        place = self.cluster.nodes.index(leader)
        self.cluster.move_leader(self.queue, self.cluster.nodes[place - 1])

    @contextmanager
    def compared(self, healthy: int, faulty: int, *, pause: float) -> Iterator[None]:
        """Send requests before the block, and during it, and compare their times."""
        before = self.trial.requests(healthy, queue=self.queue)
        sent = len(self.trial.load.answers)
        with self.trial.under_load(faulty, pause=pause, queue=self.queue):
            yield
        self.trial.compare(before, self.trial.load.answers[sent:])

    def expect_no_confirm(self, during: float) -> None:
        """Nothing is confirmed for so many seconds, although something waits."""
        before = self.trial.stats("confirmed")
        time.sleep(during)
        number = self.trial.stats("confirmed") - before
        self.trial.expect(f"nothing is confirmed, not {number}", number == 0)

    def note_silence(self, most: float = float("inf")) -> None:
        """Note the longest time without confirms so far, which may be *most*."""
        if self.trial.rig.is_baseline:
            return
        longest, self.silence.longest = self.silence.longest, 0.0
        self.trial.figures.notes.append(f"at most {longest:.1f} s without confirms")
        self.trial.expect(f"at most {most:.0f} s, not {longest:.1f} s", longest <= most)

    def note_attempts(self, *, since: float, workers: int) -> None:
        """Note how the connections since then are spread; they must be no herd."""
        if self.trial.rig.is_baseline:
            return
        made = sorted(
            moment - since
            for proxy in self.proxies
            for moment in proxy.accepted_at
            if moment > since
        )
        peak = max(Counter(int(moment * 10) for moment in made).values(), default=0)
        self.trial.figures.notes.append(
            f"{workers} processes: {len(made)} connections, at most {peak} in 100 ms,"
            f" the last one after {made[-1] if made else 0:.1f} s"
        )
        self.trial.expect(f"no herd of {peak}", peak <= workers // 2)
        most = 3 * workers
        self.trial.expect(
            f"at most {most} attempts, not {len(made)}", len(made) <= most
        )


@contextmanager
def open_site(rig: Rig, *, workers: int = 1, **settings: Any) -> Iterator[Site]:
    """Run an app on the cluster, whose nodes all run at the beginning."""
    cluster = shared_cluster()
    cluster.restore()
    queue = new_name("quorum")
    cluster.declare_quorum_queue(queue)
    # Drained is a node that all rows have started again at their end.
    rig = replace(rig, node=cluster.nodes[1])
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(node.port)) for node in cluster.nodes]
        settings = {
            "BROKER_URL": proxies[0].url if rig.is_baseline else _url(proxies),
            "HEARTBEAT": HEARTBEAT,
            **settings,
        }
        trial = stack.enter_context(rig.trial(workers=workers, asks=NOTED, **settings))
        trial.queues.append(queue)
        silence = Silence(trial.host.side_file)
        stack.enter_context(silence.watched())
        yield Site(cluster, proxies, trial, queue, silence)


def _url(proxies: list[Proxy]) -> str:
    hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
    return f"amqp://guest:guest@{hosts}/"
