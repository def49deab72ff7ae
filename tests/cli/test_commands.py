"""``flask events``, with a running process and a killed one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from flask_eventcollector.cli import group, progress
from flask_eventcollector.delivery.refusals import Refusal
from flask_eventcollector.stores.spool.admin import changes
from flask_eventcollector.stores.spool.admin.changes import change
from flask_eventcollector.stores.spool.admin.reading import Unreadable
from flask_eventcollector.stores.spool.control import ControlRequest
from flask_eventcollector.stores.spool.journal import Journal
from tests.cli.support import runner
from tests.cli.test_file_states import damaged
from tests.helpers import Recorder, Shop, freeze, open_shop, thread
from tests.spool.support import leave, rows

WORKER = """
import sys
from flask import Flask
from flask_eventcollector import EventCollector
from flask_eventcollector.testing import FaultInjector

app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = "memory://"
app.config["EVENTCOLLECTOR_BACKLOG"] = "spool"
app.config["EVENTCOLLECTOR_SPOOL_DIR"] = sys.argv[1]
app.config["EVENTCOLLECTOR_DEAD_AFTER"] = 0
events = EventCollector(app)
FaultInjector.of(events.broker).refuse("refused")
with events.auto_publish():
    dead = events.enqueue_event({"secret": 1}, "refused", headers={"tenant": "a"})
events.flush(10)
FaultInjector.of(events.broker).go_down()
with events.auto_publish():
    waiting = events.enqueue_event({"secret": 2}, "orders")
while events.stats().unerased or events.stats().spooled != 2:
    pass
print(dead.id, waiting.id, flush=True)
for line in sys.stdin:
    FaultInjector.of(events.broker).accept("refused")
    print(events.stats().dead, events.stats().dropped, flush=True)
"""


class Worker:
    """A process with one dead and one waiting event, both on disk."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.dead, self.waiting = self._read()

    def counts(self) -> list[str]:
        """How many of its events are dead, and how many were dropped."""
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        return self._read()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)

    def _read(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def worker(folder: Path) -> Iterator[Worker]:
    worker = Worker(folder)
    yield worker
    worker.kill()


@pytest.fixture
def killed(worker: Worker) -> Worker:
    worker.kill()
    return worker


@pytest.fixture
def shop(folder: Path) -> Iterator[Shop]:
    with open_shop(
        BROKER_URL="memory://",
        TESTING_BROKER=True,
        BACKLOG="spool",
        SPOOL_DIR=str(folder),
    ) as shop:
        yield shop


@pytest.fixture
def run(shop: Shop) -> Callable[..., Result]:
    def invoke(*args: str, input: str = "") -> Result:
        result = runner(shop).invoke(args=["events", *args], input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


def status(run: Callable[..., Result]) -> Any:
    return json.loads(run("status", "--json").stdout)


def test_status_shows_the_process_of_a_file_and_its_events(
    run: Callable[..., Result], worker: Worker
) -> None:
    [file] = status(run)["files"]
    assert (file["process"], file["alive"]) == (worker.process.pid, True)
    assert (file["waiting"], file["dead"]) == (1, 1)

    worker.kill()

    assert not status(run)["files"][0]["alive"]
    result = run("status")
    assert result.exit_code == 3
    assert re.search(r"gone +1 +1 ", result.stdout)


def test_status_is_content_where_nothing_was_ever_kept(
    run: Callable[..., Result],
) -> None:
    result = run("status")

    assert result.exit_code == 0
    assert "No events are waiting." in result.stdout
    assert "does not exist" in result.stdout + result.stderr


def test_no_payload_is_shown_unless_asked_for(
    run: Callable[..., Result], killed: Worker
) -> None:
    for args in (["status"], ["list"], ["dead"], ["show", killed.dead]):
        for option in ([], ["--json"]):
            assert "secret" not in run(*args, *option).output

    assert '"secret": 1' in run("show", killed.dead, "--payload").stdout
    assert "tenant: a" in run("show", killed.dead).stdout


def test_the_lists_can_be_narrowed(run: Callable[..., Result], killed: Worker) -> None:
    def listed(*args: str) -> list[str]:
        lines = run(*args, "--json").stdout.splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert listed("list") == [killed.dead, killed.waiting]
    assert listed("list", "--limit", "1") == [killed.dead]
    assert listed("list", "--queue", "orders") == [killed.waiting]
    assert listed("list", "--dead") == listed("dead") == [killed.dead]
    assert "no queue 'refused'" in run("dead").stdout


def test_flush_delivers_what_a_killed_process_has_left(
    run: Callable[..., Result], shop: Shop, killed: Worker
) -> None:
    result = run("flush", "--timeout", "20")

    assert result.exit_code == 3
    assert "1 event delivered, 1 dead." in result.stdout
    assert shop.sent("orders") == [{"secret": 2}]


def test_flush_leaves_to_a_living_process_what_it_has(
    run: Callable[..., Result], shop: Shop, worker: Worker
) -> None:
    result = run("flush", "--timeout", "20")

    assert "0 events delivered." in result.stdout
    assert (
        "2 more events in the files of 1 running process, which delivers"
        in result.stdout
    )
    assert result.exit_code == 0
    assert shop.sent("orders") == []


def test_flush_says_what_the_broker_refuses_of_living_processes(
    run: Callable[..., Result], worker: Worker, folder: Path
) -> None:
    (path,) = folder.glob("*.spool")
    refusal = Refusal("id", "shop", "orders", "no queue", 3, 1.0, 2.0)
    Path(f"{path}.refusals").write_text(json.dumps([refusal._asdict()]))

    told, machines = run("flush"), json.loads(run("flush", "--json").stdout)

    assert told.exit_code == 0
    assert "The broker refuses some of these: shop/orders: no queue\n" in told.stdout
    assert machines["refused"] == [
        {"exchange": "shop", "queue": "orders", "reason": "no queue"}
    ]


def test_a_flush_does_not_advise_itself_for_a_damaged_file(
    run: Callable[..., Result], shop: Shop, folder: Path
) -> None:
    path = damaged(folder)
    shop.faults.refuse("q")

    result = run("flush", "--timeout", "0.5")

    assert result.exit_code == 3
    assert f"{path.name}: it is damaged: once its intact events are" in result.stderr
    assert "run 'flask events flush'" not in result.stderr
    shop.events.close(5)
    assert f"{path.name}.quarantined" in run("quarantine", "list").stdout


@pytest.mark.parametrize(
    "command",
    [
        ["retry", "--all"],
        ["retry", "--queue", "*", "--to", "new"],
        ["purge", "--dead"],
        ["adopt", "--from", "shop"],
        ["quarantine", "remove", "--all"],
        ["purge-seen"],
    ],
)
def test_a_machine_is_not_asked(run: Callable[..., Result], command: list[str]) -> None:
    result = run(*command, "--json")

    assert result.exit_code == 2
    assert "--json requires --yes" in result.stdout + result.stderr


def test_flush_explains_why_events_are_left(
    run: Callable[..., Result], shop: Shop, killed: Worker
) -> None:
    shop.faults.go_down()

    result = run("flush", "--timeout", "0.5")

    assert result.exit_code == 3
    assert "1 waiting" in result.stdout
    assert "it was taken down" in result.stdout + result.stderr


def test_flush_names_the_queue_that_refuses_and_the_reason(
    run: Callable[..., Result], shop: Shop, killed: Worker
) -> None:
    shop.faults.refuse("orders")

    result = run("flush", "--timeout", "20")
    machines = json.loads(run("flush", "--timeout", "20", "--json").stdout)

    assert result.exit_code == 3
    assert "Not delivered: orders: no queue 'orders'" in result.stderr
    assert "orders: no queue 'orders'" in machines["reason"]
    (problem,) = machines["problems"]
    assert (problem["queue"], problem["events"]) == ("orders", 1)
    assert problem["attempts"] >= 1


def test_retry_lets_a_killed_process_s_event_wait_again(
    run: Callable[..., Result], shop: Shop, killed: Worker
) -> None:
    assert run("retry", killed.dead).exit_code == 0

    assert status(run)["total"]["dead"] == 0
    assert "2 events delivered" in run("flush").stdout
    assert shop.sent("refused") == [{"secret": 1}]


def test_retry_is_asked_of_a_living_process(
    run: Callable[..., Result], worker: Worker, folder: Path
) -> None:
    result = run("retry", "--all", "--yes")

    assert result.exit_code == 0, result.output
    assert f"Retried 1 event through process {worker.process.pid}." in result.stdout
    assert worker.counts() == ["0", "0"]
    assert not list(folder.glob("*.request"))


def test_a_living_process_is_asked_to_redirect(
    run: Callable[..., Result], shop: Shop, worker: Worker, folder: Path
) -> None:
    result = run("retry", worker.waiting, worker.dead, "--to", "new")

    assert result.exit_code == 0, result.output
    process = worker.process.pid
    assert f"Redirected 2 events through process {process}." in result.stdout
    assert worker.counts() == ["0", "0"]
    assert not list(folder.glob("*.request"))
    lines = map(json.loads, run("list", "--json").stdout.splitlines())
    assert {(e["queue"], e["state"]) for e in lines} == {("new", "waiting")}
    worker.kill()
    run("flush")
    assert shop.sent("new") == [{"secret": 1}, {"secret": 2}]


def test_what_a_process_dies_over_is_done_here(
    run: Callable[..., Result], worker: Worker
) -> None:
    def die() -> None:
        time.sleep(0.5)
        worker.process.kill()

    freeze(worker.process.pid)
    with thread(die):
        result = run("retry", worker.dead)

    assert result.exit_code == 0, result.output
    assert f"Marked 1 event of process {worker.process.pid} (gone) for" in result.stdout
    assert status(run)["total"]["dead"] == 0


def test_an_empty_answer_names_what_was_asked_for(
    run: Callable[..., Result], killed: Worker
) -> None:
    assert run("list", "--queue", "none").stdout == "No events for none are waiting.\n"
    assert run("dead", "--queue", "none").stdout == "No events for none are dead.\n"


@pytest.mark.parametrize("backlog", ["memory", "spool"])
def test_without_a_broker_s_url_the_cure_is_to_set_it(
    tmp_path: Path, backlog: str
) -> None:
    with open_shop(TESTING_BROKER=True, BACKLOG=backlog, SPOOL_DIR=tmp_path) as shop:
        result = runner(shop).invoke(args=["events", "status"])

    assert result.exit_code == 4
    assert "EVENTCOLLECTOR_BROKER_URL is not set here" in result.stdout + result.stderr


def test_purge_is_asked_of_a_living_process(
    run: Callable[..., Result], worker: Worker
) -> None:
    result = run("purge", worker.dead, worker.waiting, "--yes")

    assert result.exit_code == 0, result.output
    assert worker.counts() == ["0", "2"]


def test_a_living_process_is_asked_part_by_part(
    run: Callable[..., Result], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    monkeypatch.setattr(changes, "_PAGE", 1)
    result = run("purge", worker.dead, worker.waiting, "--yes")
    assert "Dropping: 1 of 2 after " in result.stderr
    assert "Dropping: 2 of 2 after " in result.stderr
    assert worker.counts() == ["0", "2"]


def test_purge_drops_and_reports_and_removes_an_empty_file(
    run: Callable[..., Result], shop: Shop, killed: Worker, folder: Path
) -> None:
    with Recorder(shop) as recorder:
        result = run("purge", killed.dead, killed.waiting, input="y\n")

    assert result.exit_code == 0, result.output
    assert len(recorder.one("events_dropped").events) == 2
    assert list(folder.iterdir()) == []


def test_purge_asks_first(run: Callable[..., Result], killed: Worker) -> None:
    result = run("purge", "--dead", input="n\n")

    assert result.exit_code == 1
    assert status(run)["total"]["dead"] == 1


@pytest.mark.parametrize("what", [["retry"], ["purge", "--yes"]])
def test_an_unknown_id_is_named_and_nothing_is_changed(
    run: Callable[..., Result], killed: Worker, what: list[str]
) -> None:
    result = run(*what, killed.dead, "nobody")

    assert result.exit_code == 1
    assert "No such event on disk: nobody." in result.stdout + result.stderr
    assert status(run)["total"]["dead"] == 1


def test_what_is_not_dead_can_t_be_retried(
    run: Callable[..., Result], killed: Worker
) -> None:
    result = run("retry", killed.waiting)

    assert result.exit_code == 1
    assert "Not dead" in result.stdout + result.stderr


def test_a_damaged_file_is_reported_with_the_cure(
    run: Callable[..., Result], folder: Path, killed: Worker
) -> None:
    [path] = folder.glob("*.spool")
    Path(f"{path}-wal").unlink()
    path.write_bytes(b"nonsense" * 1024)

    result = run("status")

    assert result.exit_code == 3
    assert "it is damaged" in result.stdout + result.stderr
    assert "'flask events flush'" in result.stdout + result.stderr


def test_what_a_damaged_wal_hides_is_not_taken_for_nothing(
    run: Callable[..., Result], folder: Path, killed: Worker
) -> None:
    [path] = folder.glob("*.spool")
    os.truncate(f"{path}-wal", 5_000)
    shared = Path(f"{path}-shm").read_bytes()

    result = run("status")

    assert result.exit_code == 3
    assert "its -wal is damaged" in result.stdout + result.stderr
    with pytest.raises(Unreadable, match="its -wal is damaged"):
        change(path, ControlRequest("purge", [killed.waiting]), lambda notices: None)
    # So the next reader sees it, too.
    assert Path(f"{path}-shm").read_bytes() == shared


def test_a_backlog_in_memory_has_an_exit_code_of_its_own() -> None:
    with open_shop() as shop:
        result = runner(shop).invoke(args=["events", "status"])

    assert result.exit_code == 4
    assert "EVENTCOLLECTOR_BACKLOG to 'spool'" in result.stdout + result.stderr


def test_a_worker_loads_no_command() -> None:
    code = (
        "import sys; from flask import Flask\n"
        "from flask_eventcollector import EventCollector\n"
        "EventCollector(Flask('shop'))\n"
        "assert 'flask_eventcollector.cli.commands' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_all_help_fits_into_a_terminal_of_80_columns() -> None:
    def helps(command: click.Command, parent: click.Context | None) -> Iterator[str]:
        context = click.Context(command, parent=parent, info_name=command.name)
        yield command.get_help(context)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from helps(found, context)

    shown = [*helps(group.commands, None)]
    assert len(shown) > 20
    lines = [line for one in shown for line in one.splitlines()]
    assert [line for line in lines if len(line) > 80] == []


def test_a_queue_is_given_as_a_glob_which_distinguishes_case(
    run: Callable[..., Result], killed: Worker
) -> None:
    def listed(pattern: str) -> list[str]:
        lines = run("list", "--queue", pattern, "--json").stdout.splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert listed("ord*") == [killed.waiting]
    assert listed("[or]*") == [killed.dead, killed.waiting]
    assert listed("Ord*") == []


def test_the_beginning_of_an_id_is_enough(
    run: Callable[..., Result], killed: Worker
) -> None:
    shown = json.loads(run("show", killed.dead[:8], "--json").stdout)

    assert shown["id"] == killed.dead
    result = run("show", killed.dead[:3])
    assert result.exit_code == 1
    assert "at least their first 4 characters" in result.stdout + result.stderr


def test_an_ambiguous_beginning_of_an_id_names_the_matches(
    run: Callable[..., Result], folder: Path
) -> None:
    leave(folder, ["abcd-1", "abcd-2", "abcd"], destination=None)

    result = run("show", "abcd-")

    assert result.exit_code == 1
    assert (
        "abcd- is ambiguous: abcd-1, abcd-2. Give more" in result.stdout + result.stderr
    )
    assert json.loads(run("show", "abcd", "--json").stdout)["id"] == "abcd"


def test_purge_by_queue_previews_and_asks(
    run: Callable[..., Result], killed: Worker
) -> None:
    result = run("purge", "--queue", "ord*", input="y\n")

    assert result.exit_code == 0, result.output
    assert "orders: 1 event\n" in result.stderr
    assert killed.waiting in result.stderr
    left = status(run)["total"]
    assert (left["waiting"], left["dead"]) == (0, 1)


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["--reason", "no such reason"], (1, 1)),
        (["--reason", "*"], (1, 0)),
        (["--reason", "refuse"], (1, 0)),
        (["--older-than", "1h"], (1, 1)),
        (["--older-than", "0s"], (0, 0)),
        (["--older-than", "0s", "--dead"], (1, 0)),
        (["--queue", "nix"], (1, 1)),
    ],
)
def test_purge_drops_what_meets_all_conditions(
    run: Callable[..., Result],
    killed: Worker,
    conditions: list[str],
    left: tuple[int, int],
) -> None:
    result = run("purge", *conditions, "--yes")

    assert result.exit_code == 0, result.output
    total = status(run)["total"]
    assert (total["waiting"], total["dead"]) == left


def test_retry_by_condition_leaves_waiting_events_alone(
    run: Callable[..., Result], killed: Worker
) -> None:
    assert run("retry", "--queue", "orders").stdout == "No events are selected.\n"
    result = run("retry", "--queue", "*", input="y\n")
    assert "Send 1 event again?" in result.stderr
    assert "Marked 1 event" in result.stdout
    assert status(run)["total"]["dead"] == 0


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["list", "--older-than", "0s"], 2),
        (["list", "--older-than", "1h"], 0),
        (["list", "--reason", "refuse"], 1),
        (["dead", "--reason", "refuse", "--older-than", "0s"], 1),
        (["dead", "--reason", "other"], 0),
    ],
)
def test_what_a_change_would_select_can_be_listed_before(
    run: Callable[..., Result], killed: Worker, command: list[str], found: int
) -> None:
    assert len(run(*command, "--json").stdout.splitlines()) == found
    assert ("No events are selected." in run(*command).stdout) == (not found)


def test_purge_without_an_answer_drops_nothing(
    run: Callable[..., Result], killed: Worker
) -> None:
    result = run("purge", "--queue", "*")

    assert result.exit_code == 1
    assert "nothing was done: add --yes" in result.stdout + result.stderr
    assert run("purge", "--dead", "--json").exit_code == 2
    assert status(run)["total"]["dead"] == 1


@pytest.mark.parametrize("args", [[], ["--older-than", "soon"], ["ID", "--dead"]])
def test_purge_refuses_what_is_no_selection(
    run: Callable[..., Result], killed: Worker, args: list[str]
) -> None:
    assert run("purge", *args, "--yes").exit_code == 2


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [("a.b", "12"), ("shop/a.b", "2"), ("shop/*", "23"), ("*/a.b", "2"), ("/a.b", "")],
)
def test_a_target_is_selected_as_list_shows_it(
    run: Callable[..., Result], folder: Path, pattern: str, ids: str
) -> None:
    journal = Journal.open(leave(folder, [1], "a.b", destination=None))
    journal.write(rows([2], first=10, queue="a.b", exchange="shop"))
    journal.write(rows([3], first=20, queue="c", exchange="shop"))
    journal.close()

    lines = map(
        json.loads, run("list", "--queue", pattern, "--json").stdout.splitlines()
    )

    assert "".join(event["id"] for event in lines) == ids


def test_a_queue_whose_name_looks_like_a_glob_is_found_by_its_name(
    run: Callable[..., Result], folder: Path
) -> None:
    leave(folder, range(5), "a[1]", destination=None)

    result = run("purge", "--queue", "a[1]", input="y\n")

    assert result.exit_code == 0, result.output
    assert "a[1]: 5 events\n" in result.stderr
    assert "… and 2 more" in result.stderr
    assert list(folder.iterdir()) == []
