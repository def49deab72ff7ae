"""``flask events retry --to``, which sends events to another queue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flask_eventcollector.stores.spool.admin import changes
from flask_eventcollector.stores.spool.admin.changes import change
from flask_eventcollector.stores.spool.control import ControlRequest
from flask_eventcollector.stores.spool.folder import claim_orphan
from flask_eventcollector.stores.spool.journal import Journal
from tests.cli.support import FlaskEvents, Run
from tests.cli.test_transfer import file, flask_events
from tests.helpers import Shop
from tests.spool.support import dead_rows, leave, rows

__all__ = ["file", "flask_events"]


@pytest.fixture
def path(folder: Path) -> Path:
    """A file with events for three queues; those for ``q`` are dead."""
    path = leave(folder, [1, 2], "ordes", destination=None)
    journal = Journal.open(path)
    journal.write(rows([3], first=10, queue="orders"))
    journal.write(dead_rows([4, 5]))
    journal.close()
    return path


def queues(run: Run) -> dict[str, tuple[str, str]]:
    lines = map(json.loads, run("list", "--json").stdout.splitlines())
    return {event["id"]: (event["queue"], event["state"]) for event in lines}


BEFORE = {
    "1": ("ordes", "waiting"),
    "2": ("ordes", "waiting"),
    "3": ("orders", "waiting"),
    "4": ("q", "dead"),
    "5": ("q", "dead"),
}


@pytest.mark.parametrize(
    ("args", "moved"),
    [
        (["--queue", "ordes"], "12"),
        (["--queue", "q"], "45"),
        (["--queue", "*"], "12345"),
        (["--queue", "o*", "--all"], ""),
        (["--all"], "45"),
        (["--reason", "no"], "45"),
        (["--older-than", "1h"], ""),
        (["1", "5"], "15"),
    ],
)
def test_the_selected_events_wait_for_the_new_queue(
    run: Run, path: Path, args: list[str], moved: str
) -> None:
    result = run("retry", *args, "--to", "new", "--json", "--yes")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["done"] == list(moved)
    assert queues(run) == BEFORE | dict.fromkeys(moved, ("new", "waiting"))


def test_a_selection_is_shown_before_it_is_redirected(run: Run, path: Path) -> None:
    command = ("retry", "--queue", "*", "--to", "new")

    refused = run(*command, input="n\n")
    unanswered = run(*command)

    for result in (refused, unanswered):
        assert result.exit_code == 1
        assert "ordes: 2 events\n" in result.stderr
        assert "Send 5 events to new?" in result.stderr
        assert "nothing was done: add --yes" in result.stdout + result.stderr
    assert run(*command, "--json").exit_code == 2
    assert queues(run) == BEFORE
    assert run(*command, input="y\n").exit_code == 0
    assert queues(run) == dict.fromkeys(BEFORE, ("new", "waiting"))


def test_they_keep_their_places_among_those_for_the_new_queue(
    run: Run, shop: Shop, path: Path
) -> None:
    result = run("retry", "--queue", "ordes", "--to", "orders", "--yes")

    assert "Marked 2 events of process" in result.stdout
    assert "for the new queue. The next worker sends them" in result.stdout
    run("flush")
    assert shop.sent("orders") == [1, 2, 3]
    assert shop.sent("ordes") == []


def test_more_events_than_a_transaction_takes_stay_in_order(
    run: Run, shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_PAGE", 3)
    leave(folder, range(10), "ordes", destination=None)

    run("retry", "--queue", "ordes", "--to", "orders", "--yes")

    run("flush")
    assert shop.sent("orders") == list(range(10))


def test_many_events_of_a_running_process_need_few_requests(
    path: Path, flask_events: FlaskEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process looks for one a second.
    asked: list[int] = []

    def is_applied(_: Path, request: ControlRequest) -> bool:
        asked.append(len(request.ids))
        return True

    monkeypatch.setattr(changes, "_is_applied", is_applied)
    ids = [str(number) for number in range(10, 1_010)]
    with flask_events.holding(path):
        changed = change(path, ControlRequest("purge", ids), lambda _: None)

    assert changed.done == ids
    assert len(asked) <= 2


def test_an_event_that_was_delivered_meanwhile_is_not_sent_again(path: Path) -> None:
    change(path, ControlRequest("redirect", ["gone", "1"], "new"), lambda _: None)

    journal = Journal.open(path, read_only=True)
    assert journal.sums()[:2] == (3, 2)
    journal.close()


def test_the_events_of_a_process_that_hangs_are_left_and_named(
    run: Run, path: Path, flask_events: FlaskEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "PATIENCE", 0.2)
    with flask_events.holding(path) as process:
        command = ["retry", "--queue", "ordes", "--to", "orders", "--yes", "--json"]
        result = run(*command)

        assert f"no response from process {process.pid}" in result.stderr
        assert "the events may be in flight" in result.stderr
    assert result.exit_code == 3
    shown = json.loads(result.stdout)
    assert (shown["done"], shown["left"]) == ([], ["1", "2"])
    assert queues(run) == BEFORE


@pytest.mark.parametrize(
    ("queue", "error"), [("", "it is empty"), ("x" * 256, "it takes 256 bytes")]
)
def test_a_name_that_amqp_does_not_allow_is_a_usage_error(
    run: Run, path: Path, queue: str, error: str
) -> None:
    result = run("retry", "--all", "--to", queue)

    assert result.exit_code == 2
    assert error in result.stderr
    claim = claim_orphan(path)
    assert claim is not None
    claim.release()
