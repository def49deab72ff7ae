"""The steps of the operator's handbook, in real outages."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.conftest import require
from tests.databases import PostgreSQL, find_postgresql
from tests.docs.handbook import Page, runs_page
from tests.docs.machine import Machine
from tests.docs.reader import ROOT, find_one
from tests.faults.disk import fill, no_disk, small_disk
from tests.helpers import freeze, wait_until
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.slow

SEEN, DONE, OVER = "What you see", "What to do", "It is over when"


@contextmanager
def a_service(
    root: Path, node: RabbitMQNode, *, disk: Path | None = None, **settings: str
) -> Iterator[Machine]:
    """A machine whose service has delivered an order."""
    machine = Machine(root, node, disk=disk)
    machine.set(**{f"FLASK_EVENTCOLLECTOR_{k}": v for k, v in settings.items()})
    with machine:
        machine.order(1)
        wait_until(lambda: node.count("orders.created") == 1, "it is delivered")
        yield machine


def stop_broker(machine: Machine) -> None:
    machine.stop("rabbitmq-server")
    wait_until(lambda: broker(machine) == "degraded", "the service has noticed")


def broker(machine: Machine) -> str:
    health = machine.health()
    return str(health["checks"]["broker"]["status"]) if health else "no answer"


@runs_page("index")
def test_a_service_without_a_trouble(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    with a_service(tmp_path, private_rabbitmq) as machine:
        machine.folder("/var/lib/shop/events")
        page = Page("index", machine)
        page.run("What to do first")
        page.end()


@runs_page("broker-down")
def test_the_broker_is_down(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    with (
        a_user(private_rabbitmq) as url,
        a_service(tmp_path, private_rabbitmq, BROKER_URL=url) as machine,
    ):
        page = Page("broker-down", machine)
        stop_broker(machine)
        machine.order(2, 3, 4)
        page.run(SEEN)
        page.run(DONE)
        page.run(OVER)

        private_rabbitmq.change_password("shop", "new")
        private_rabbitmq.close_all_connections()
        machine.order(5, 6)
        page.run("The login is refused")
        page.end()


@contextmanager
def a_user(node: RabbitMQNode) -> Iterator[str]:
    """The broker's URL for a user of the service alone."""
    node.add_user("shop", "secret")
    node.set_permissions("shop", ".*", ".*", ".*")
    yield f"amqp://shop:secret@127.0.0.1:{node.port}/"
    node.delete_user("shop")


@runs_page("broker-blocks")
def test_the_broker_blocks(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    with a_service(tmp_path, private_rabbitmq) as machine:
        page = Page("broker-blocks", machine)
        private_rabbitmq.memory_alarm(True)
        machine.order(2, 3, 4)
        page.run(SEEN)
        page.run(DONE)
        page.run(OVER)
        page.end()


@runs_page("queue-missing")
def test_a_queue_is_missing(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    with a_service(tmp_path, private_rabbitmq) as machine:
        page = Page("queue-missing", machine)
        machine.enqueue("invoices.requested", {"order": 7})
        machine.enqueue("invoices.requsted", {"order": 8})
        page.run("A queue is missing")
        machine.order(2)
        page.run("It is over when the queues have the events")

        private_rabbitmq.delete("orders.created")
        private_rabbitmq.declare("orders.created", x_max_length=5)
        machine.systemctl("restart", "shop")
        machine.order(3)
        wait_until(lambda: broker(machine) == "ok", "it is connected")
        page.run("A queue has other arguments", 1)
        assert len(private_rabbitmq.get_all("orders.created")) == 1
        page.run("A queue has other arguments")
        page.end()


@contextmanager
def small_messages(node: RabbitMQNode) -> Iterator[None]:
    """Let the node refuse messages of more than 64 KiB on new channels."""
    before = node.eval("application:get_env(rabbit, max_message_size, 134217728).")
    # RabbitMQ 3 reads the one, RabbitMQ 4 the other.
    change = (
        "application:set_env(rabbit, max_message_size, {0}),"
        "persistent_term:put(max_message_size, {0})."
    )
    node.eval(change.format(65536))
    try:
        yield
    finally:
        node.eval(change.format(before))


@runs_page("poisoned-event")
def test_events_are_dead(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    with (
        small_messages(private_rabbitmq),
        a_service(tmp_path, private_rabbitmq, DEAD_AFTER="0") as machine,
    ):
        page = Page("poisoned-event", machine)
        private_rabbitmq.declare("invoices.requested")
        machine.enqueue("orders.created", {"order": 7, "note": 70_000 * "a"})
        machine.enqueue("reports.nightly", {"day": "Monday"})
        machine.enqueue("invoices.requsted", {"order": 7})
        page.run(SEEN)
        page.run(DONE)
        page.run(OVER)
        page.end()


@runs_page("disk-full")
def test_the_disk_is_full(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    require(no_disk())
    with (
        small_disk() as disk,
        a_service(tmp_path, private_rabbitmq, disk=disk.path) as machine,
    ):
        page = Page("disk-full", machine)
        stop_broker(machine)
        fill(disk.path / "upload.tmp")
        machine.order(2, 3, 4)
        page.run(SEEN)
        page.run(DONE)
        page.run(OVER)
        page.end()


@runs_page("events-dropped")
def test_events_were_dropped(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    with a_service(tmp_path, private_rabbitmq, MAX_EVENTS="3") as machine:
        page = Page("events-dropped", machine)
        stop_broker(machine)
        machine.order(2, 3, 4, 5, 6)
        page.run(SEEN)
        page.run(DONE)
        machine.start("rabbitmq-server")
        page.run(OVER)
        page.end()


@runs_page("worker-killed")
def test_a_worker_was_killed(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    with a_service(tmp_path, private_rabbitmq) as machine:
        page = Page("worker-killed", machine)
        stop_broker(machine)
        machine.order(2, 3, 4)
        machine.is_probed = False
        _, worker = machine.pids("shop")
        os.kill(worker, signal.SIGKILL)
        page.run(SEEN)
        page.run(DONE)
        machine.start("rabbitmq-server")
        machine.is_probed = True
        page.run(OVER)
        page.end()


@runs_page("deploy")
def test_deploy_with_events_waiting(
    private_rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    with a_service(tmp_path, private_rabbitmq) as machine:
        page = Page("deploy", machine)
        stop_broker(machine)
        machine.order(2, 3, 4)
        page.run("Restart, or a new release")
        page.run("Scale down to nothing", 1)
        machine.start("rabbitmq-server")
        page.run("Scale down to nothing")

        private_rabbitmq.stop()
        machine.start("shop")
        machine.order(5, 6)
        machine.stop("shop")
        rename(machine)
        page.run("The app has another name")
        machine.start("rabbitmq-server")
        page.run(OVER)
        page.end()


def rename(machine: Machine) -> None:
    folder = machine.folder("/srv/shop")
    (folder / "shop.py").rename(folder / "store.py")
    machine.set(FLASK_APP="store")


@runs_page("moving-a-spool")
def test_move_a_spool(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    with a_service(tmp_path / "1", private_rabbitmq) as first:
        second = Machine(tmp_path / "2", private_rabbitmq)
        second.folder("/var/lib/shop/events")
        copy = f"sed 's#^-q$##; s#^web-1:{tmp_path}/2#{tmp_path}/1#'"
        second.add_tool("scp", f"exec cp $(printf '%s\\n' \"$@\" | {copy})")
        page = Page("moving-a-spool", web_1=first, web_2=second)
        stop_broker(first)
        first.order(2, 3, 4)
        page.run("To another machine, as a file")

        first.start("shop")
        first.order(5, 6)
        first.stop("shop")
        page.run("To another machine, as a folder")

        url = private_rabbitmq.url.replace("127.0.0.1", "localhost")
        second.means["localhost:5672"] = f"localhost:{private_rabbitmq.port}"
        second.set(FLASK_EVENTCOLLECTOR_BROKER_URL=url)
        page.run("To another RabbitMQ")
        private_rabbitmq.start()
        page.run(OVER)
        page.end()


OUTBOX = find_one(page="docs/transactions.md", file="outbox.py")
#: What the outbox's app has besides: tables, and a view that succeeds.
ORDERS = """

@app.post("/orders/<int:number>")
def create(number):
    db.session.add(Order())
    events.enqueue_event({"order": number}, "orders.created")
    db.session.commit()
    return "created"


@app.get("/ready")
def ready():
    return "ready"


with app.app_context():
    db.create_all()
"""


@runs_page("outbox")
def test_the_outbox_does_not_drain(
    private_rabbitmq: RabbitMQNode, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    url = postgresql.new_database()
    settings = {
        "FLASK_SQLALCHEMY_DATABASE_URI": url,
        "FLASK_EVENTCOLLECTOR_BACKLOG": "memory",
        "FLASK_EVENTCOLLECTOR_OUTBOX_RELAY": "external",
        "FLASK_EVENTCOLLECTOR_OUTBOX_LEASE": "2",
    }
    private_rabbitmq.declare("orders.created")
    machine = Machine(tmp_path, private_rabbitmq, OUTBOX.code + ORDERS)
    machine.set(**settings)
    plain = url.replace("+psycopg", "")
    machine.add_tool("psql", f'exec {find_postgresql()}/psql {plain} "$@"')
    with machine:
        page = Page("outbox", machine)
        machine.order(1, 2, 3)
        page.run(SEEN)
        page.run("No relay is active")
        wait_until(lambda: private_rabbitmq.count("orders.created") == 3, "all is sent")

        for pid in machine.pids("shop-relay"):
            freeze(pid)
        machine.order(4, 5, 6)
        page.run("A relay was killed, or hangs")

        forgotten = psycopg.connect(plain)
        forgotten.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        forgotten.execute("SELECT 1")
        page.run("An old transaction is open")
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("SELECT 1")
        forgotten.close()
        page.run(OVER)
        page.end()


def test_each_page_is_in_the_table_of_the_index() -> None:
    folder = ROOT / "docs" / "handbook"
    linked = re.findall(r"\]\(([\w-]+)\.md", (folder / "index.md").read_text())
    assert {*linked} == {path.stem for path in folder.glob("*.md")} - {"index"}
