"""A private cluster of RabbitMQ nodes for tests, on one machine."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from flask_eventcollector.verifying import keeper
from tests.helpers import DEADLINE, unmeasured, wait_until
from tests.rabbitmq import RabbitMQError, RabbitMQNode, free_ports

_KEEPER = Path(keeper.__file__)

#: RabbitMQ 4 has it in another module.
_JOIN = """
Node = '{name}',
rabbit:stop(),
code:ensure_loaded(rabbit_db_cluster),
ok = case erlang:function_exported(rabbit_db_cluster, join, 2) of
    true -> rabbit_db_cluster:join(Node, disc);
    false -> rabbit_mnesia:join_cluster(Node, disc)
end,
rabbit:start().
"""
_LEADER = """
{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
{{_, Node}} = amqqueue:get_pid(Queue),
Node.
"""
_RUNNING = """
case rabbit:is_running() of
    true -> length([N || N <- [node() | nodes()], rabbit:is_running(N)]);
    false -> 0
end.
"""
_MOVE = """
{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
{{Name, _}} = amqqueue:get_pid(Queue),
ra:transfer_leadership({{Name, '{old}'}}, {{Name, '{new}'}}).
"""


class RabbitMQCluster:
    """Nodes that share an Erlang cookie and a port mapper of their own."""

    def __init__(self, size: int = 3) -> None:
        (self._epmd_port,) = free_ports(1)
        self._folder = Path(tempfile.mkdtemp(prefix="eventcollector-cluster-"))
        self._cookie = secrets.token_hex(10).upper()
        self.nodes = [
            RabbitMQNode(epmd=self._epmd_port, cookie=self._cookie) for _ in range(size)
        ]
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """One URL with all nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"amqp://guest:guest@{hosts}/"

    def start(self) -> None:
        """Start all nodes, and join them; takes half a minute."""
        self._start_epmd()
        with ThreadPoolExecutor() as pool:
            list(pool.map(RabbitMQNode.start, self.nodes))
        for node in self.nodes[1:]:
            node.eval(_JOIN.format(name=self.nodes[0].name), timeout=60)

    def close(self) -> None:
        """Kill all nodes, and remove their data."""
        for node in self.nodes:
            node.close()
        if self._epmd is not None:
            os.killpg(self._epmd.pid, signal.SIGKILL)
            self._epmd.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def declare_quorum_queue(self, queue: str) -> None:
        """Declare a queue with a replica on each node, led by the first one."""
        self.nodes[0].declare(queue, x_queue_type="quorum")

    def leader_of(self, queue: str, asked: RabbitMQNode) -> RabbitMQNode:
        """The node that leads a quorum queue, according to the one that is *asked*."""
        answer = asked.eval(_LEADER.format(queue=queue))
        (name,) = re.findall(r"[\w.@-]+", answer)
        return next(node for node in self.nodes if node.name == name)

    def move_leader(self, queue: str, to: RabbitMQNode) -> None:
        """Let another node lead a quorum queue, as ``rabbitmq-queues rebalance``."""
        leader = self.leader_of(queue, to)
        to.eval(_MOVE.format(queue=queue, old=leader.name, new=to.name))
        wait_until(lambda: self.leader_of(queue, to) is to, "another node leads")

    def cut_off(self, node: RabbitMQNode) -> None:
        """Cut a node off from the others until :meth:`rejoin`; clients still reach it.

        Its connections to them are ended, and new ones are refused in both directions.
        """
        # All at once: a node that has lost only one of the others would make these end
        # their connection, too.
        names = ", ".join(f"'{other.name}'" for other in self._others(node))
        node.eval(
            f"[erlang:set_cookie(Node, cut_off) || Node <- [{names}]],"
            f"[erlang:disconnect_node(Node) || Node <- [{names}]]."
        )

    def rejoin(self, node: RabbitMQNode) -> None:
        """Let a node that was cut off connect to the others again."""
        for other in self._others(node):
            node.eval(
                f"erlang:set_cookie('{other.name}', '{self._cookie}'),"
                f"net_kernel:connect_node('{other.name}')."
            )

    def handle_partitions_by(self, strategy: str) -> None:
        """Set ``cluster_partition_handling`` of all nodes."""
        for node in self.nodes:
            node.eval(
                f"application:set_env(rabbit, cluster_partition_handling, {strategy})."
            )

    def restore(self) -> None:
        """Run all nodes, and delete all queues."""
        for node in self.nodes:
            node.start()
            node.start_app()
        self.nodes[0].delete_everything()

    def await_running(self, node: RabbitMQNode) -> None:
        """Wait until a node is a member that serves clients again."""
        size = len(self.nodes)
        wait_until(lambda: self._has_running(node, size), f"{node} runs again")

    def await_majority(self, without: RabbitMQNode) -> None:
        """Wait until no quorum queue needs this node for its majority.

        As ``rabbitmq-upgrade await_online_quorum_plus_one`` does.
        """
        for node in self.nodes:
            self.await_running(node)
        milliseconds = 1000 * int(DEADLINE)
        without.eval(
            "true = rabbit_upgrade_preparation:await_online_quorum_plus_one"
            f"({milliseconds}).",
            timeout=2 * DEADLINE,
        )

    def _has_running(self, node: RabbitMQNode, number: int) -> bool:
        with suppress(OSError, RabbitMQError):
            return int(node.eval(_RUNNING)) == number
        return False

    def _others(self, node: RabbitMQNode) -> list[RabbitMQNode]:
        return [other for other in self.nodes if other is not node]

    def _start_epmd(self) -> None:
        # One that ends with a node would leave the others without it.
        program = shutil.which("epmd") or "epmd"
        self._epmd = subprocess.Popen(
            [
                sys.executable,
                str(_KEEPER),
                str(self._folder),
                str(os.getpid()),
                program,
            ],
            env={
                **unmeasured(),
                "ERL_EPMD_PORT": str(self._epmd_port),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
            },
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        # The nodes' keepers would start one, too.
        wait_until(self._has_epmd, "the port mapper listens")

    def _has_epmd(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._epmd_port), 1).close()
        except OSError:
            return False
        return True


@contextmanager
def running_cluster() -> Iterator[RabbitMQCluster]:
    """A private cluster of three that is closed at the end of the block."""
    cluster = RabbitMQCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
