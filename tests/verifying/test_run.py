"""``flask events verify`` on a real broker: it finds what is lost, and cleans up."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector.brokers.rabbitmq.scratch_queue import QueueRefused
from flask_eventcollector.config.broker_url import BrokerURL, parse_broker_urls
from flask_eventcollector.delivery.signal import Signal
from flask_eventcollector.verifying import run as run_module
from flask_eventcollector.verifying import workers
from flask_eventcollector.verifying.run import NotRun, Plan, Progress, Run, through
from tests.cli.support import FlaskEvents
from tests.rabbitmq import RabbitMQNode, free_ports
from tests.verifying.sabotage import GHOST, LOST, TWICE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are; it must be empty at the end."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults may come at once: the node is not killed."""
    monkeypatch.setattr(run_module, "_UNHARMED", 0.0)


def nothing(*_: object) -> None:
    """Show nothing, and warn of nothing."""


def plan(url: str, **more: Any) -> Plan:
    urls = parse_broker_urls(url, "url")
    return Plan(urls, **{"seconds": 2.0, "seed": 4, "workers": 2, "rate": 40, **more})


def exists(run: Run) -> bool:
    return run._queue._exists()


class Ended(Exception):
    """Raised in a run, by whom it shows how far it is."""


# Endings.


@pytest.mark.usefixtures("soon")
def test_what_it_made_is_gone_however_it_ends(
    rabbitmq: RabbitMQNode, folder: Path
) -> None:
    seen: list[set[int]] = []

    def show(progress: Progress) -> None:
        seen.append(run._workers.pids)
        assert exists(run)
        assert list(folder.iterdir())
        if progress.requests:
            raise Ended

    run = Run(plan(rabbitmq.url, seconds=600), Signal(), show, nothing)
    with pytest.raises(Ended):
        run.carry_out()

    assert not exists(run)
    assert list(folder.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen[-1])


@pytest.mark.usefixtures("soon")
def test_what_was_sent_until_it_was_stopped_is_judged(
    rabbitmq: RabbitMQNode, folder: Path
) -> None:
    stop = Signal()

    def show(progress: Progress) -> None:
        if progress.acknowledged:
            stop.set()

    run = Run(plan(rabbitmq.url, seconds=600), stop, show, nothing)
    found = run.carry_out()

    assert found.acknowledged
    assert found.is_kept
    assert 0 < found.lasted < 60
    assert run.broker.startswith("RabbitMQ ")
    assert not exists(run)


def test_no_broker_is_told_without_the_password(folder: Path) -> None:
    (port,) = free_ports(1)
    url = f"amqp://shop:secret@127.0.0.1:{port}/"

    with pytest.raises(NotRun, match=f"no connection .*127.0.0.1:{port}: ") as caught:
        Run(plan(url), Signal(), nothing, nothing).carry_out()
    assert "secret" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_broker_that_does_not_come_back_ends_it(
    rabbitmq: RabbitMQNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(plan(rabbitmq.url), Signal(), nothing, nothing)

    def refuse() -> str:
        raise QueueRefused("not yet")

    monkeypatch.setattr(run_module, "_BACK", -1.0)
    monkeypatch.setattr(run._queue, "check_broker", refuse)
    with pytest.raises(NotRun, match="the broker did not come back: not yet"):
        run._await_broker()


def test_a_queue_that_can_t_be_deleted_is_named(
    rabbitmq: RabbitMQNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    run = Run(plan(rabbitmq.url), Signal(), nothing, told.append)

    def refuse() -> None:
        raise QueueRefused("no")

    monkeypatch.setattr(run._queue, "delete", refuse)
    run._delete_queue()

    name = run._queue.name
    assert told == [
        f"The queue {name} could not be deleted: no. The broker deletes it after 60"
        " minutes without use."
    ]


# The URL of the proxy.


def test_the_proxy_has_the_brokers_login_and_virtual_host() -> None:
    (url,) = parse_broker_urls("amqp://a%40b:p%2Fw@rabbit/a%2Fb?heartbeat=5", "url")
    (there,) = parse_broker_urls(through(15000, url), "url")

    assert there == BrokerURL(
        "amqp", "127.0.0.1", 15000, "a/b", "a@b", "p/w", url.options
    )


def test_behind_the_proxy_the_certificate_has_the_brokers_name() -> None:
    (url,) = parse_broker_urls("amqps://shop:secret@rabbit/", "url")
    (there,) = parse_broker_urls(through(15000, url), "url")

    assert there.options["server_name_indication"] == "rabbit"


# As a command.


def test_a_worker_that_breaks_promises_is_found(
    rabbitmq: RabbitMQNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PROGRAM", "tests.verifying.sabotage")
    monkeypatch.setattr(run_module, "_UNHARMED", 600.0)
    stop = Signal()

    def show(_: Progress) -> None:
        if {LOST, TWICE, GHOST} <= {answer.path for answer in run._load.answers}:
            stop.set()

    run = Run(plan(rabbitmq.url, seconds=600), stop, show, nothing)
    found = run.carry_out()

    assert not found.is_kept
    assert (found.lost, found.unmarked, found.unexpected) == (1, 1, 1)


def test_a_url_from_the_environment_is_used_and_sigterm_leaves_nothing(
    rabbitmq: RabbitMQNode, tmp_path: Path
) -> None:
    flask = FlaskEvents(tmp_path, "memory://")
    flask.environment["TMPDIR"] = str(tmp_path)
    flask.environment["FLASK_EVENTS_VERIFY_URL"] = rabbitmq.url
    with flask.started("verify", "--yes", "--minutes", "5") as process:
        assert process.stderr is not None
        assert " of 5:00" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.endswith("Error: Not verified: it was told to end\n")
    assert not output
    assert list(tmp_path.iterdir()) == []
