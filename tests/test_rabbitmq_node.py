"""The private node supports all faults of the tests, and leaves nothing running."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pika
import pika.exceptions
import pytest

from tests.helpers import unmeasured
from tests.rabbitmq import RabbitMQError, RabbitMQNode

pytestmark = pytest.mark.rabbitmq

ROOT = Path(__file__).parent.parent

# Uses a node as a test run does, and forks a process that outlives it.
TEST_RUN = """
import os, time
from tests.rabbitmq import RabbitMQNode
node = RabbitMQNode()
node.start()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(node.folder, node.port, child, flush=True)
time.sleep(60)
"""


def eventually(check: Callable[[], bool], timeout: float = 30) -> bool:
    """Poll until the condition holds or the timeout has passed."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def processes_of(folder: str) -> list[str]:
    """Return the command lines of the running processes in a node's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        # The environment of a process that has ended is empty.
        if folder.encode() in environment + command:
            found.append(command.decode(errors="replace"))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ends_with_a_test_run_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TEST_RUN],
        cwd=ROOT,
        env=unmeasured(),
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        folder, port, child = run.stdout.readline().split()
        assert processes_of(folder)

        run.kill()
        try:
            assert eventually(lambda: not processes_of(folder)), processes_of(folder)
            assert not Path(folder).exists()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(port)), timeout=1)
        finally:
            os.kill(int(child), signal.SIGKILL)


@pytest.mark.slow
def test_keeps_durable_messages_when_it_is_killed_and_started_again(
    private_rabbitmq: RabbitMQNode,
) -> None:
    private_rabbitmq.declare("durable")
    private_rabbitmq.publish("durable", b"1", b"2")

    private_rabbitmq.kill()
    assert not private_rabbitmq.is_running
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        private_rabbitmq.count("durable")
    private_rabbitmq.start()

    assert [m.body for m in private_rabbitmq.get_all("durable")] == [b"1", b"2"]


def test_keeps_durable_messages_when_its_broker_is_stopped_and_started_again(
    private_rabbitmq: RabbitMQNode,
) -> None:
    private_rabbitmq.declare("durable")
    private_rabbitmq.publish("durable", b"1")

    private_rabbitmq.stop_app()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        private_rabbitmq.count("durable")
    private_rabbitmq.start_app()

    assert private_rabbitmq.count("durable") == 1


def test_answers_nothing_while_it_is_frozen(private_rabbitmq: RabbitMQNode) -> None:
    private_rabbitmq.freeze()
    address = ("127.0.0.1", private_rabbitmq.port)
    with socket.create_connection(address, timeout=0.5) as client:
        client.sendall(b"AMQP\x00\x00\x09\x01")
        with pytest.raises(TimeoutError):
            client.recv(1)

        private_rabbitmq.thaw()
        client.settimeout(10)
        assert client.recv(1) == b"\x01"


def test_blocks_publishers_under_a_memory_alarm(private_rabbitmq: RabbitMQNode) -> None:
    private_rabbitmq.declare("blocked")
    private_rabbitmq.memory_alarm(True)
    publisher = threading.Thread(
        target=private_rabbitmq.publish, args=("blocked", b"1"), daemon=True
    )
    publisher.start()
    assert eventually(lambda: "blocked" in _connection_states(private_rabbitmq))
    assert private_rabbitmq.count("blocked") == 0

    private_rabbitmq.memory_alarm(False)
    publisher.join(timeout=30)
    assert private_rabbitmq.count("blocked") == 1


def _connection_states(node: RabbitMQNode) -> str:
    return node.eval(
        "[rabbit_networking:connection_info(Pid, [state])"
        " || Pid <- rabbit_networking:connections()]."
    )


def test_closes_the_connections_of_its_clients(private_rabbitmq: RabbitMQNode) -> None:
    with private_rabbitmq.channel() as channel:
        private_rabbitmq.close_all_connections()
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
            channel.connection.process_data_events(time_limit=10)
    assert closed.value.reply_code == 320


def test_is_as_new_when_it_is_restored(private_rabbitmq: RabbitMQNode) -> None:
    private_rabbitmq.declare("left")
    with private_rabbitmq.channel() as channel:
        channel.exchange_declare("left", durable=True)
    private_rabbitmq.memory_alarm(True)
    private_rabbitmq.freeze()

    private_rabbitmq.restore()

    assert private_rabbitmq.eval("rabbit_amqqueue:list().") == "[]"
    assert "left" not in private_rabbitmq.eval("rabbit_exchange:list().")
    assert private_rabbitmq.eval("rabbit_alarm:get_alarms().") == "[]"


def test_an_error_in_an_expression_is_reported(rabbitmq: RabbitMQNode) -> None:
    with pytest.raises(RabbitMQError, match="undef"):
        rabbitmq.eval("no_such_module:run().")


def test_is_the_node_that_rabbitmqctl_talks_to(
    rabbitmq: RabbitMQNode, make_queue: Callable[..., str]
) -> None:
    assert make_queue() in rabbitmq.ctl("list_queues", "name")


def test_declares_queues_with_arguments(
    rabbitmq: RabbitMQNode, make_queue: Callable[..., str]
) -> None:
    queue = make_queue(x_max_length=1)
    rabbitmq.publish(queue, b"1", b"2")

    (message,) = rabbitmq.get_all(queue)

    assert message.json() == 2
    assert message.properties.delivery_mode == pika.DeliveryMode.Persistent.value
