"""Rows about a cluster of brokers, whose nodes fail."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from benchmarks.comeback import simulate
from tests.faults.figures import Figures
from tests.faults.rig import EVENTS, Rig, Trial, new_name
from tests.faults.rows import row
from tests.faults.site import Site, open_site
from tests.rabbitmq import RabbitMQNode
from tests.rabbitmq_cluster import RabbitMQCluster, running_cluster

#: Requests in each part of a run.
SOME = 40
#: Requests while a node fails, and while all of them are restarted.
MANY, VERY_MANY = 300, 1000
#: Seconds until events are confirmed again, on a machine that runs three nodes.
SOON = 15.0


@row(
    57,
    "three nodes, the one that leads a quorum queue killed",
    holds=f"confirmed again within {SOON:.0f} s, on another node; 0 lost",
    short=1,
    long=10,
    confirms=2 * SOME * EVENTS,
)
def leader_killed(rig: Rig, runs: int) -> Figures:
    with running_cluster() as cluster:
        queue = new_name("quorum")
        # Asked, and drained, is a node that is not the first leader.
        rig = replace(rig, node=cluster.nodes[1])
        hosts = cluster.nodes[0].url if rig.is_baseline else cluster.url
        with rig.trial(BROKER_URL=hosts) as trial:
            cluster.declare_quorum_queue(queue)
            trial.queues.append(queue)
            for _ in range(runs):
                trial.requests(SOME, queue=queue)
                trial.settle()
                _kill_leader(cluster, trial, queue)
                trial.settle()
    return trial.figures


def _kill_leader(cluster: RabbitMQCluster, trial: Trial, queue: str) -> None:
    asked = next(node for node in reversed(cluster.nodes) if node.is_running)
    leader = cluster.leader_of(queue, asked)
    with trial.under_load(SOME, queue=queue):
        leader.kill()
        trial.hit()
    before = trial.stats("confirmed")
    again = partial(_has_confirmed, trial, before + EVENTS)
    trial.requests(1, queue=queue)
    seconds = trial.wait_until("events are confirmed again", again)
    trial.expect(f"that takes {SOON:.0f} s, not {seconds:.1f} s", seconds < SOON)
    leader.start()


def _has_confirmed(trial: Trial, number: int) -> bool:
    return bool(trial.stats("confirmed") >= number)


@row(
    41,
    "three nodes, the one in use killed under load",
    holds=f"0 lost; latency rule; on another node within {SOON:.0f} s; few attempts",
    short=1,
    long=10,
    confirms=(SOME + MANY) * EVENTS,
    quick=True,
)
def used_node_killed(rig: Rig, runs: int) -> Figures:
    workers = 4
    with open_site(rig, workers=workers) as site:
        for _ in range(runs):
            node, before = site.used_node, site.attempts
            with site.compared(SOME, MANY, pause=0.03):
                node.kill()
                site.trial.hit()
            site.trial.settle()
            made = site.attempts - before
            most = 3 * workers
            site.trial.expect(f"at most {most} attempts, not {made}", made <= most)
            site.note_silence(SOON)
            node.start()
    return site.trial.figures


@row(
    42,
    "three nodes, the leader moved, then each node restarted in turn",
    holds=f"0 lost; never without confirms for {SOON:.0f} s",
    short=1,
    long=5,
    confirms=(SOME + VERY_MANY) * EVENTS,
    hits=4,
)
def rolling_restart(rig: Rig, runs: int) -> Figures:
    with open_site(rig) as site:
        for _ in range(runs):
            with site.compared(SOME, VERY_MANY, pause=0.25):
                site.move_leader()
                site.trial.hit()
                for node in site.cluster.nodes:
                    site.cluster.await_majority(without=node)
                    node.stop()
                    site.trial.hit()
                    node.start()
            site.trial.settle()
            site.note_silence(SOON)
    return site.trial.figures


@row(
    43,
    "three nodes, the one in use cut off from the others",
    holds="0 lost; latency rule; retained, or with `pause_minority` on another node"
    f" within {SOON:.0f} s",
    short=1,
    long=5,
    confirms=2 * (SOME + MANY) * EVENTS,
    hits=2,
    quick=True,
)
def cut_off(rig: Rig, runs: int) -> Figures:
    with open_site(rig) as site:
        for _ in range(runs):
            for strategy in ("ignore", "pause_minority"):
                site.cluster.handle_partitions_by(strategy)
                _cut_off_used_node(site, strategy)
            site.note_silence(SOON)
        site.cluster.handle_partitions_by("ignore")
    return site.trial.figures


def _cut_off_used_node(site: Site, strategy: str) -> None:
    node, trial = site.used_node, site.trial
    site.lead_by(node)
    with site.compared(SOME, MANY, pause=0.1):
        site.cluster.cut_off(node)
        trial.hit()
        if strategy == "ignore":
            time.sleep(1)
            site.expect_no_confirm(during=2)
    if strategy == "pause_minority":
        trial.settle()
    site.cluster.rejoin(node)
    if strategy == "ignore":
        # Its database differs from the others'.
        node.stop()
        node.start()
    site.cluster.await_running(node)
    trial.settle()


@row(
    44,
    "three nodes, the one in use put into maintenance mode",
    holds=f"0 lost; latency rule; on another node within {SOON:.0f} s",
    short=1,
    long=10,
    confirms=(SOME + MANY) * EVENTS,
    quick=True,
)
def maintenance(rig: Rig, runs: int) -> Figures:
    with open_site(rig) as site:
        for _ in range(runs):
            node = site.used_node
            with site.compared(SOME, MANY, pause=0.03):
                # As `rabbitmq-upgrade drain` does.
                node.eval("rabbit_maintenance:drain().", timeout=60)
                site.trial.hit()
            site.trial.settle()
            moved = f"another node is used, not {node}"
            site.trial.expect(moved, site.used_node is not node)
            site.note_silence(SOON)
            node.eval("rabbit_maintenance:revive().", timeout=60)
    return site.trial.figures


@row(
    45,
    "three nodes, all killed, then one started alone",
    holds="0 lost; nothing is confirmed without a majority",
    short=1,
    long=5,
    confirms=(SOME + MANY) * EVENTS,
)
def without_majority(rig: Rig, runs: int) -> Figures:
    with open_site(rig) as site:
        trial, nodes = site.trial, site.cluster.nodes
        # Only the one that has ended last starts alone.
        *others, last = (nodes[2], nodes[0], nodes[1])
        for _ in range(runs):
            with site.compared(SOME, MANY, pause=0.05):
                for node in others:
                    node.kill()
                    time.sleep(1)
                last.kill()
                trial.hit()
            last.start()
            trial.wait_for_broker("ready")
            trial.requests(SOME, queue=site.queue)
            site.expect_no_confirm(during=3)
            for node in others:
                node.start()
            trial.settle()
            site.note_silence()
    return site.trial.figures


@row(
    46,
    "twenty processes on one of three nodes, which is killed",
    holds="0 lost; the connections are spread over a second, and all are back in ten",
    short=1,
    long=5,
    confirms=SOME * EVENTS,
)
def herd(rig: Rig, runs: int) -> Figures:
    workers, longest = 20, 10.0
    with open_site(rig, workers=workers, RETRY_DELAY=1, RETRY_MAX_DELAY=60) as site:
        for _ in range(runs):
            are_connected = partial(_all_are_connected, site, workers)
            site.trial.wait_until("all have a connection", are_connected, 60)
            node, began = site.used_node, time.monotonic()
            node.kill()
            site.trial.hit()
            site.trial.wait_until(
                "all are back",
                partial(_all_are_elsewhere, site, workers, node),
                longest,
            )
            site.note_attempts(since=began, workers=workers)
            site.trial.settle()
            node.start()
        # So many processes take a while to end on a few processors.
        site.trial.expect_bounded_exit(itself=workers)
        found = simulate(0.001, busy=1, total=200)
        site.trial.figures.notes.append(
            f"simulated, 200 processes: at most {found.peak_hundredth} connections in"
            f" 10 ms, half back after {found.half:.1f} s, all after {found.last:.1f} s"
        )
        site.trial.expect("all are back in a second", found.last <= 1)
        site.trial.expect("no herd", found.peak_hundredth <= 10)
    return site.trial.figures


def _all_are_connected(site: Site, workers: int) -> bool:
    # Each worker connects with its first event.
    site.trial.requests(SOME, queue=site.queue)
    return site.connections() >= workers


def _all_are_elsewhere(site: Site, workers: int, node: RabbitMQNode) -> bool:
    return site.connections(without=node) >= workers
