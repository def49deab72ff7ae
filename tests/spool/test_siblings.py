"""Processes that share a folder tell each other that the broker is back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from flask_eventcollector.events import BrokerState
from flask_eventcollector.stores.spool import siblings
from flask_eventcollector.stores.spool.destination import Destination
from flask_eventcollector.stores.spool.folder import Folder
from flask_eventcollector.stores.spool.siblings import SPREAD, Siblings
from tests.helpers import DEADLINE, wait_until
from tests.parts import ManualBroker, collect, delivering
from tests.spool.support import APP, ELSEWHERE, HERE, failing, leave, spooling


def touched_long_ago(folder: Path) -> None:
    """Set the time of all locks, so that the next touch surely changes it."""
    for path in folder.glob("*.lock"):
        os.utime(path, (1, 1))


class Process:
    """What one process does in the folder, over a clock of its own."""

    def __init__(
        self, folder: Path, app: str = APP, destination: Destination = HERE
    ) -> None:
        self.folder = Folder(folder, app, destination)
        self.now = 0.0
        self.heard = 0
        self.adopted: list[Path] = []
        self.siblings = Siblings(
            self.folder, clock=lambda: self.now, uniform=lambda: 0.5
        )
        self.siblings.on_connected = self._hear
        self.run()

    def _hear(self) -> None:
        self.heard += 1

    def make_file(self) -> None:
        self.folder.make()
        self.folder.claim_new().path.touch()
        touched_long_ago(self.folder.path)
        self.run()

    def run(self) -> float:
        return self.siblings.run(self.adopted)

    def connects(self) -> None:
        self.siblings.tell()
        self.run()

    def hears(self) -> bool:
        """Whether it hears something in the next second."""
        before = self.heard
        self.run()
        self.now += SPREAD
        self.run()
        return self.heard > before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def waiting(folder: Path) -> Process:
    """A process with something to send."""
    process = Process(folder)
    process.make_file()
    return process


def test_the_others_hear_it_once(folder: Path, waiting: Process) -> None:
    assert not waiting.hears()
    Process(folder).connects()
    assert waiting.hears()
    assert not waiting.hears()


def test_they_spread_their_attempts(folder: Path, waiting: Process) -> None:
    Process(folder).connects()
    assert waiting.run() == SPREAD / 2
    heard = []
    for waiting.now in (SPREAD / 2 - 0.01, SPREAD / 2):
        waiting.run()
        heard.append(waiting.heard)
    assert heard == [0, 1]


def test_a_file_of_its_own_that_is_new_says_nothing(folder: Path) -> None:
    process = Process(folder)
    process.make_file()
    assert not process.hears()


@pytest.mark.parametrize("stranger", [("billing", HERE), (APP, ELSEWHERE)])
def test_other_apps_and_those_with_another_broker_hear_nothing(
    folder: Path, waiting: Process, stranger: tuple[str, Destination]
) -> None:
    Process(folder, *stranger).connects()
    assert not waiting.hears()


def test_a_process_that_has_only_adopted_hears_it(folder: Path) -> None:
    path = leave(folder, ["first"])
    heir = Process(folder)
    touched_long_ago(folder)
    heir.adopted.append(path)
    assert not heir.hears()
    Process(folder).connects()
    assert heir.hears()


def test_it_makes_no_file(folder: Path, waiting: Process) -> None:
    before = sorted(folder.iterdir())
    Process(folder).connects()
    assert waiting.hears()
    assert sorted(folder.iterdir()) == before


def test_it_makes_no_folder(folder: Path) -> None:
    Process(folder).connects()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("function", "number"),
    [("listdir", errno.EACCES), ("utime", errno.EROFS), ("stat", errno.EIO)],
)
def test_a_folder_that_fails_does_no_harm(
    folder: Path,
    waiting: Process,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    number: int,
) -> None:
    teller = Process(folder)
    monkeypatch.setattr(os, function, failing(OSError(number, os.strerror(number))))
    teller.connects()
    assert not waiting.hears()


def test_a_broker_that_one_process_finds_is_tried_by_another_that_is_idle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "SPREAD", 0.0)
    first, second = ManualBroker(BrokerState.DOWN), ManualBroker(BrokerState.DOWN)
    with (
        delivering(first, backlog=spooling(folder), durable=True) as finder,
        delivering(second, backlog=spooling(folder), durable=True) as idle,
    ):
        finder.publish(collect(finder, 1), 0)
        idle.publish(collect(idle, 2), 0)
        wait_until(lambda: len(list(folder.glob("*.lock"))) == 2, "both have files")
        touched_long_ago(folder)
        # It may hear that, but not later.
        idle._store.scan(DEADLINE)
        second.calls.clear()

        first.becomes(BrokerState.READY)

        second.wait_for_call("reconnect_soon")
