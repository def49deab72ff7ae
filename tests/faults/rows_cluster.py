"""Rows about a cluster of brokers, one of which fails."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tests.faults.figures import Figures
from tests.faults.rig import EVENTS, Rig, Trial, new_name
from tests.faults.rows import row
from tests.rabbitmq_cluster import RabbitMQCluster, running_cluster

#: Requests in each part of a run.
SOME = 40
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
