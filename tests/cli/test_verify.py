"""``flask events verify``: what it refuses, shows and returns.

``tests/verifying`` runs it on a real broker.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from click.testing import Result

from flask_eventcollector.cli import verify, verify_output
from flask_eventcollector.config.broker_url import BrokerURL
from flask_eventcollector.verifying.management import (
    Management,
    ManagementFailed,
    Queues,
)
from flask_eventcollector.verifying.report import Figures
from flask_eventcollector.verifying.restarts import RestartCommand
from flask_eventcollector.verifying.run import NotRun, Plan, Progress
from tests.cli.support import Run, runner
from tests.helpers import open_shop

URL = "amqp://shop:secret@127.0.0.1:1/check"
MANAGEMENT = "http://127.0.0.1:2"

KEPT = Figures(
    attempts=50,
    acknowledged=45,
    lost=0,
    lost_with_process=0,
    dropped=0,
    on_disk=0,
    duplicated=2,
    unmarked=0,
    recovered=5,
    unexpected=0,
    failed=1,
    requests=11,
    slowest=0.31,
    median=0.01,
    p99=0.3,
    strokes={"worker killed": 2},
    delivered_after=1.5,
    lasted=60.4,
)


class FakeRun:
    """Has run before it begins."""

    plans: ClassVar[list[Plan]] = []
    result: Figures | BaseException
    #: What happens instead.
    act: Callable[[Any], None]

    def __init__(self, plan: Plan, stop: Any, show: Any, warn: Any) -> None:
        self.plans.append(plan)
        self.stop, self.show, self.warn = stop, show, warn
        self.broker = "RabbitMQ 4.0.5"

    def carry_out(self) -> Figures:
        self.show(Progress(12.3, 11, 45, 2, "connections cut"))
        type(self).act(self)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeRun]:
    class Fake(FakeRun):
        plans: ClassVar[list[Plan]] = []
        result = KEPT
        act = staticmethod(lambda run: None)

    monkeypatch.setattr(verify, "Run", Fake)
    return Fake


def changed(**counts: Any) -> Figures:
    return Figures(**{**vars(KEPT), **counts})


# The virtual host.


def test_a_virtual_host_that_may_not_be_empty_is_refused(
    run: Run, fake: type[FakeRun]
) -> None:
    result = run("verify", "--url", URL)

    assert result.exit_code == 1
    assert "AMQP does not tell whether this virtual host is empty" in result.stderr
    assert "Use virtual host check of 127.0.0.1:1 all the same?" in result.stderr
    assert "Not confirmed, so nothing was done: add --yes" in result.stderr
    assert not fake.plans


@pytest.mark.parametrize(("args", "input"), [(["--yes"], ""), ([], "y\n")])
def test_unless_somebody_agrees(
    run: Run, fake: type[FakeRun], args: list[str], input: str
) -> None:
    assert run("verify", "--url", URL, *args, input=input).exit_code == 0
    (plan,) = fake.plans
    assert plan.urls == (BrokerURL("amqp", "127.0.0.1", 1, "check", "shop", "secret"),)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Queues(0, []), None),
        (Queues(1, ["orders\x1b"]), r"has 1 queue: orders\\x1b$"),
        (Queues(7, ["a", "b"]), r"has 7 queues: a, b, …$"),
        (
            ManagementFailed("it answered 401"),
            r"virtual host empty\? it answered",
        ),
    ],
    ids=["empty", "one queue", "many queues", "no answer"],
)
def test_the_management_api_tells(
    run: Run,
    fake: type[FakeRun],
    monkeypatch: pytest.MonkeyPatch,
    found: Queues | Exception,
    says: str | None,
) -> None:
    def queues(self: Management, url: BrokerURL) -> Queues:
        assert (self.host, url.vhost) == ("127.0.0.1", "check")
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(Management, "queues", queues)
    result = run("verify", "--url", URL, "--management-url", MANAGEMENT)

    assert result.exit_code == (1 if says else 0)
    assert bool(fake.plans) is (says is None)
    if says:
        assert re.search(says, result.stderr, re.M)


def test_the_apps_own_virtual_host_is_recognised(fake: type[FakeRun]) -> None:
    with open_shop(BROKER_URL=URL, TESTING_BROKER=True) as shop:
        args = ["events", "verify", "--url", URL]
        result = runner(shop).invoke(args=args)

    assert result.exit_code == 1
    assert "This app publishes its own events to this virtual host." in result.stderr


# Its arguments.


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--url", "memory://"], "memory:// is no broker"),
        (["--url", "http://host"], "is the address of RabbitMQ's management UI"),
        (["--url", URL, "--private"], "--private takes no --url"),
        (["--private", "--restart-command", "true"], "and no --restart-command"),
        (["--restart-command", "true"], "--restart-command requires --url"),
        (["--url", URL, "--restart-command", "'"], "is not a command: No closing"),
        (["--url", URL, "--management-url", "host"], "must be the address of"),
        (["--minutes", "0"], "--minutes"),
        (["--minutes", "600"], "--minutes"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    run: Run, fake: type[FakeRun], args: list[str], says: str
) -> None:
    result = run("verify", *args)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert "secret" not in result.output + result.stderr
    assert not fake.plans


def test_what_is_asked_for_is_done(run: Run, fake: type[FakeRun]) -> None:
    words = "--minutes 0.5 --seed 7 --backlog memory --workers 2 --rate 9"
    more = ["--restart-command", "true restart", "--queue-type", "quorum"]
    run("verify", "--url", URL, "--yes", *words.split(), *more)

    (plan,) = fake.plans
    assert isinstance(plan.restart, RestartCommand)
    assert (plan.seconds, plan.seed, plan.backlog) == (30, 7, "memory")
    assert (plan.workers, plan.rate, plan.queue_type) == (2, 9, "quorum")


def test_without_a_url_rabbitmq_is_needed(
    run: Run, fake: type[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "find_programs", lambda: None)
    result = run("verify")

    assert result.exit_code == 1
    assert "RabbitMQ's programs were not found: add --url" in result.stderr
    assert not fake.plans


@pytest.mark.parametrize("private", [False, True])
def test_a_url_may_be_in_the_environment(
    run: Run,
    fake: type[FakeRun],
    monkeypatch: pytest.MonkeyPatch,
    private: bool,
) -> None:
    monkeypatch.setenv("FLASK_EVENTS_VERIFY_URL", URL)
    monkeypatch.setattr(verify, "find_programs", lambda: None)
    result = run("verify", "--yes", *(["--private"] if private else []))

    assert result.exit_code == (1 if private else 0)
    assert ("programs were not found" in result.stderr) is private
    assert bool(fake.plans) is not private


# What it shows.


def test_it_shows_the_figures_in_a_table(run: Run, fake: type[FakeRun]) -> None:
    result = run("verify", "--url", URL, "--yes", "--seed", "7")

    assert result.exit_code == 0
    first, _, *table, _, last = result.stdout.splitlines()
    assert first == "RabbitMQ 4.0.5, 3 workers with the spool, 1:00 minutes, seed 7"
    lines = [line.split(maxsplit=2) for line in table]
    assert ["acknowledged", "45", "events of requests with a 2xx response"] in lines
    assert ["slowest", "310", "ms  request; p99 300 ms, median 10 ms"] in lines
    assert last.startswith("Kept: ")
    assert "secret" not in result.output + result.stderr


def test_machines_get_json(run: Run, fake: type[FakeRun]) -> None:
    result = run("verify", "--url", URL, "--yes", "--json", "--seed", "7")

    found = json.loads(result.stdout)
    assert (found["kept"], found["lost"], found["seed"]) == (True, 0, 7)
    assert found["strokes"] == {"worker killed": 2}
    assert "secret" not in result.output + result.stderr


def test_without_a_terminal_it_shows_a_line_now_and_then(
    run: Run, fake: type[FakeRun]
) -> None:
    fake.act = staticmethod(lambda run: run.show(Progress(13, 12, 46, 3, "load")))
    result = run("verify", "--url", URL, "--yes")

    line = (
        "0:12 of 2:00  11 requests  45 events acknowledged  2 strokes  connections cut"
    )
    assert result.stderr.splitlines() == [line], "the second one is too early"


def test_on_a_terminal_one_line_changes(
    run: Run, fake: type[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    class Sys:
        stderr = Terminal

    monkeypatch.setattr(verify_output, "sys", Sys)
    fake.act = staticmethod(lambda run: run.warn("The queue is left."))
    result = run("verify", "--url", URL, "--yes")

    # click leaves out what only a terminal understands.
    assert result.stderr.startswith("\r0:12 of 2:00  11 requests  ")
    assert result.stderr.endswith("connections cut\rThe queue is left.\n")


# How it ends.


@pytest.mark.parametrize(
    ("counts", "code", "says"),
    [
        ({"lost": 1}, 5, "Broken: 1 lost."),
        ({"unmarked": 2}, 5, "Broken: 2 duplicated without a mark."),
        ({"unexpected": 3, "lost": 1}, 5, "Broken: 1 lost, 3 unexpected."),
        ({"on_disk": 4, "delivered_after": None}, 3, "Nothing is lost, but not"),
        ({"dropped": 4}, 3, "Nothing is lost, but not"),
    ],
    ids=["lost", "unmarked", "unexpected", "on disk", "dropped"],
)
def test_a_broken_promise_has_an_exit_code_of_its_own(
    run: Run, fake: type[FakeRun], counts: dict[str, Any], code: int, says: str
) -> None:
    fake.result = changed(**counts)
    result = run("verify", "--url", URL, "--yes")

    assert result.exit_code == code
    assert says in result.stdout


@pytest.mark.parametrize(
    "error", [NotRun("no connection"), OSError("no connection")], ids=["run", "system"]
)
def test_what_could_not_be_run_is_another_thing(
    run: Run, fake: type[FakeRun], error: Exception
) -> None:
    fake.result = error
    result: Result = run("verify", "--url", URL, "--yes")

    assert result.exit_code == 1
    assert "Error: Not verified: no connection" in result.stderr
    assert not result.stdout


def test_a_run_that_is_ended_is_not_judged(run: Run, fake: type[FakeRun]) -> None:
    fake.act = staticmethod(lambda run: signal.raise_signal(signal.SIGTERM))
    result = run("verify", "--url", URL, "--yes")

    assert result.exit_code == 1
    assert "Not verified: it was told to end" in result.stderr


def test_the_first_interrupt_ends_the_load(run: Run, fake: type[FakeRun]) -> None:
    def interrupt(run: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        assert run.stop.is_set()

    fake.act = staticmethod(interrupt)

    assert run("verify", "--url", URL, "--yes").exit_code == 0
