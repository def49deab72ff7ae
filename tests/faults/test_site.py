"""The clock of the rows about clusters."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.faults import side_file
from tests.faults.site import Silence
from tests.helpers import wait_until


def lines(path: Path, number: int) -> None:
    with path.open("a") as file:
        file.write(number * "key event\n")


def test_silence_is_measured_while_something_waits(tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    silence = Silence(tried)
    lines(tried, 2)
    with silence.watched():
        wait_until(lambda: silence.longest > 0.2, "it is measured")
        lines(side_file.confirmed_in(tried), 1)
        wait_until(lambda: silence.longest > 0.4, "something still waits")


def test_silence_is_no_silence_if_nothing_waits(tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    silence = Silence(tried)
    lines(tried, 2)
    lines(side_file.confirmed_in(tried), 2)
    with silence.watched():
        threading.Event().wait(0.3)
    assert silence.longest < 0.2
