"""``flask events relay``."""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

import click
from sqlalchemy import MetaData, create_engine, func, select

from flask_eventcollector import make_outbox_table
from flask_eventcollector.cli.answering import Address
from flask_eventcollector.cli.relay import _Relay
from flask_eventcollector.monitoring.outbox import OutboxFigures
from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.outbox import Outbox
from flask_eventcollector.stores.outbox.relay import RelayStore
from tests.cli.support import ROOT
from tests.cli.test_outbox import Command, opened, sqlite_in
from tests.helpers import DEADLINE, unmeasured, wait_until
from tests.parts import make_event
from tests.rabbitmq import free_ports

EXTERNAL = {"OUTBOX_RELAY": "external", "OUTBOX_LEASE": 600}


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """The commands of an app whose workers only write rows."""
    with opened(sqlite_in(tmp_path), **EXTERNAL) as command:
        yield command


def write(command: Command, *payloads: str, queue: str = "q") -> None:
    command.place.write(command.place.outbox(), payloads, queue=queue)


# With --once.


def test_once_sends_what_waits(command: Command) -> None:
    write(command, "a", "b")

    result = command("relay", "--once")

    assert (result.exit_code, result.output) == (0, "")
    assert command.ids() == []


def test_once_without_rows_ends_at_once(command: Command) -> None:
    assert command("relay", "--once").exit_code == 0


def test_its_threads_take_short_turns(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = sys.getswitchinterval(), sys.setswitchinterval
    intervals: list[float] = []

    def note(interval: float) -> None:
        intervals.append(interval)
        real(interval)

    monkeypatch.setattr(sys, "setswitchinterval", note)

    assert command("relay", "--once").exit_code == 0
    assert intervals[0] < before
    # The tests run it in their own process.
    assert sys.getswitchinterval() == before


def test_once_tells_what_is_dead(command: Command) -> None:
    command.fill()

    result = command("relay", "--once")

    # What was held or waited, too: only a relay that led before can have done that.
    assert (result.exit_code, command.ids()) == (3, ["dead"])
    assert result.stderr == "Not sent: 0 events waiting, 1 dead\n"


def test_once_ends_without_progress(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path), OUTBOX_RELAY="own") as command:
        command.fill()

        result = command("relay", "--once", "--timeout", "2")

        # With "own", a worker sends what it holds.
        assert (result.exit_code, command.ids()) == (3, ["held", "delayed", "dead"])
        assert result.stderr == "Not sent: 2 events waiting, 1 dead\n"


def test_once_writes_figures_as_json(command: Command) -> None:
    write(command, "a", "b")

    last = command.lines("relay", "--once")[-1]

    assert last.pop("time") > 0
    assert last.pop("rate") >= 0
    assert last == {
        "role": "ended",
        "confirmed": 2,
        "unrouted": 0,
        "in_flight": 0,
        "lost_leases": 0,
        "waiting": 0,
        "dead": 0,
        "oldest_age": None,
        "broker": "closed",
        "problem": "",
    }


def test_without_an_outbox_it_says_so(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path)) as command:
        command.shop.events._sessions.outbox = None
        result = command("relay")
        assert result.exit_code == 1
        assert "outbox=make_outbox_table" in result.stderr


def test_in_tests_it_says_that_there_are_no_rows(tmp_path: Path) -> None:
    with opened(sqlite_in(tmp_path), TESTING_BROKER=False) as command:
        result = command("relay")
        assert result.exit_code == 1
        assert "EVENTCOLLECTOR_TESTING_BROKER" in result.stderr


def test_once_with_a_missing_table_says_so(command: Command) -> None:
    command.place.metadata.drop_all(command.place.engine)
    result = command("relay", "--once")
    assert result.exit_code == 1
    assert "run your migrations" in result.stderr


@pytest.mark.parametrize("option", ["--health-port", "--metrics-port"])
@pytest.mark.parametrize("port", ["x", "70000", "-1", "127.0.0.1"])
def test_a_wrong_port_is_refused(command: Command, option: str, port: str) -> None:
    result = command("relay", option, port)
    assert result.exit_code == 2
    assert "0.0.0.0:8080" in result.stderr


def test_a_health_file_that_cannot_be_written_is_refused(
    command: Command, tmp_path: Path
) -> None:
    result = command("relay", "--health-file", str(tmp_path / "missing" / "file"))
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_without_metrics_there_is_nothing_to_answer(command: Command) -> None:
    result = command("relay", "--metrics-port", "9464")
    assert result.exit_code == 1
    assert "set EVENTCOLLECTOR_METRICS to 'prometheus'" in result.stderr


@pytest.mark.parametrize(
    ("metrics", "is_active", "is_watched", "pause"),
    [
        (None, True, False, math.inf),
        ("prometheus", False, False, math.inf),
        ("prometheus", True, False, 5.0),
        (None, False, True, 0.2),
    ],
    ids=["nobody looks", "standby", "for the metrics", "for people"],
)
def test_rows_are_counted_for_those_who_look(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    metrics: str | None,
    is_active: bool,
    is_watched: bool,
    pause: float,
) -> None:
    monkeypatch.setattr(RelayStore, "is_active", is_active)
    settings = {} if metrics is None else {"METRICS": metrics}
    with opened_relay(tmp_path, is_watched=is_watched, **settings) as relay:
        assert relay._pause() == pause


@contextmanager
def opened_relay(
    folder: Path, *, is_watched: bool = False, **settings: str
) -> Iterator[_Relay]:
    """A relay in this process that isn't started; there is a row in each state."""
    with (
        opened(sqlite_in(folder), **EXTERNAL, **settings) as command,
        command.shop.app_context(),
        click.Context(click.Command("relay")),
    ):
        command.fill()
        relay = _Relay(once=False, is_watched=is_watched)
        yield relay
        relay._delivery.close(0)


def test_the_metrics_know_what_the_active_relay_has_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_relay(tmp_path, METRICS="prometheus") as relay:
        monkeypatch.setattr(RelayStore, "is_active", False)
        assert relay._look() is None
        monkeypatch.setattr(RelayStore, "is_active", True)
        assert relay._look() == OutboxFigures({}, 0)
        relay._counting._run_once()
        found = relay._look()
        assert found is not None
        assert found.rows == dict.fromkeys(("free", "held", "delayed", "dead"), 1)
        assert found.oldest_age > 0


def test_a_port_answers_with_the_metrics(tmp_path: Path) -> None:
    address = Address("127.0.0.1", free_ports(1)[0])
    with (
        opened_relay(tmp_path, METRICS="prometheus") as relay,
        relay.telling_metrics(address),
    ):
        status, text = ask(address.port)
        assert status == 200
        assert "# TYPE eventcollector_events_total counter" in text


def test_status_names_the_relay(command: Command) -> None:
    assert "No relay is active" in command("status").output
    assert command.json("status")["outbox"]["needs_relay"] is True
    command.place.leadership("1").lead()
    assert "Active relay: process 1" in command("status").output
    assert command.json("status")["outbox"]["active_relay"] == "process 1"


# As a process.


class Service:
    """A database with rows, and relays that can't reach a broker."""

    def __init__(self, folder: Path) -> None:
        self.url = sqlite_in(folder)
        self._engine = create_engine(self.url)
        self.table = make_outbox_table(MetaData())

    def create(self) -> None:
        self.table.metadata.create_all(self._engine)

    def write(self, payload: str) -> None:
        database = Database(self._engine, self.table)
        with self._engine.begin() as connection:
            outbox = Outbox(database, "shop")
            outbox.write(connection, [make_event(payload)], held=False)
        database.close()

    def held(self) -> int:
        held = select(func.count()).where(self.table.c.token.is_not(None))
        with self._engine.connect() as connection:
            return connection.scalar(held) or 0

    @contextmanager
    def relay(
        self, *options: str, stderr: int = subprocess.PIPE, **settings: str
    ) -> Iterator[subprocess.Popen[str]]:
        environment = {
            "DATABASE_URL": self.url,
            "FLASK_EVENTCOLLECTOR_BROKER_URL": "amqp://127.0.0.1:1",
            "FLASK_EVENTCOLLECTOR_OUTBOX_RELAY": "external",
            "FLASK_EVENTCOLLECTOR_SHUTDOWN_TIMEOUT": "0.1",
            **{f"FLASK_EVENTCOLLECTOR_{k}": v for k, v in settings.items()},
        }
        app = ["-m", "flask", "--app", "tests.cli.outbox_app"]
        with subprocess.Popen(
            [sys.executable, "-X", "utf8", *app, "events", "relay", *options],
            cwd=ROOT,
            env=unmeasured() | environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def measured(self, port: int) -> AbstractContextManager[subprocess.Popen[str]]:
        """A relay that tells its metrics."""
        options = ("--metrics-port", str(port))
        return self.relay(*options, METRICS="prometheus", OUTBOX_LEASE="3")

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


def end(process: subprocess.Popen[str], number: signal.Signals) -> str:
    process.send_signal(number)
    output, _ = process.communicate(timeout=3 * DEADLINE)
    assert process.returncode == 0
    return output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_the_rows_back(service: Service, number: signal.Signals) -> None:
    service.create()
    service.write("a")
    with service.relay("--json") as relay:
        assert relay.stdout is not None
        # It stands by until it has asked the database.
        assert any(json.loads(line)["role"] == "active" for line in relay.stdout)
        wait_until(lambda: service.held() == 1, "it is claimed")
        lines = [*map(json.loads, end(relay, number).splitlines())]
    assert service.held() == 0
    assert [line["role"] for line in lines] == ["ended"]
    assert lines[-1]["waiting"] == 1


def test_it_tells_its_health(service: Service, tmp_path: Path) -> None:
    service.create()
    path, (port,) = tmp_path / "health", free_ports(1)
    with service.relay("--health-file", str(path), "--health-port", str(port)) as relay:
        wait_until(path.exists, "the file is there")
        wait_until(lambda: path.read_text() == "active\n", "it is active")
        before = path.stat().st_mtime
        wait_until(lambda: path.stat().st_mtime > before, "it is written again")
        assert ask(port) == (200, "active\n")
        end(relay, signal.SIGTERM)
    assert not path.exists()


#: The time that a relay tells, and the active one renews.
LAST_ACTIVE = "relay_last_active_timestamp_seconds"


def metrics_at(port: int) -> dict[str, float]:
    """The metrics of the outbox that a relay tells, without the app's name."""
    try:
        text = ask(port)[1]
    except OSError:
        return {}
    sample = r'^eventcollector_outbox_(\w+)\{app="shop"(.*)\} (\S+)$'
    found = re.findall(sample, text, re.MULTILINE)
    return {f"{name}{labels}": float(value) for name, labels, value in found}


@pytest.mark.slow
def test_the_active_relay_alone_tells_the_metrics_of_the_outbox(
    service: Service,
) -> None:
    service.create()
    for payload in "abc":
        service.write(payload)
    first, second = free_ports(2)
    with service.measured(first) as active:
        wait_until(lambda: metrics_at(first).get(LAST_ACTIVE), "it is active")
        held = 'events,state="held"'
        wait_until(lambda: metrics_at(first).get(held) == 3, "the rows are counted")
        assert metrics_at(first)["oldest_age_seconds"] > 0
        with service.measured(second):
            wait_until(lambda: metrics_at(second) == {LAST_ACTIVE: 0}, "it stands by")
            active.kill()
            wait_until(lambda: metrics_at(second).get(LAST_ACTIVE), "it takes over")
            wait_until(lambda: metrics_at(second).get(held) == 3, "it counts, too")


def ask(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.request("GET", "/")
    response = connection.getresponse()
    answer = (response.status, response.read().decode())
    connection.close()
    return answer


def test_it_waits_for_a_table_that_is_missing(service: Service) -> None:
    with service.relay() as relay:
        assert relay.stderr is not None
        assert any("run your migrations" in line for line in relay.stderr)
        service.create()
        service.write("a")
        wait_until(lambda: service.held() == 1, "it is claimed")
        end(relay, signal.SIGTERM)


def test_on_a_terminal_it_shows_a_line(service: Service) -> None:
    service.create()
    service.write("a")
    terminal, stderr = os.openpty()
    with service.relay(stderr=stderr) as relay:
        shown = ""
        while "active" not in shown or "1 waiting" not in shown:
            shown += os.read(terminal, 1000).decode()
        end(relay, signal.SIGTERM)
        assert "ended" in os.read(terminal, 10_000).decode()
    os.close(stderr)
    os.close(terminal)
