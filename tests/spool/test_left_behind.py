"""What the log says at the start about events on disk that this app does not use."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Shop, open_shop, wait_until
from tests.spool.support import failing, leave

LOG = "flask_eventcollector"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    used = {"BROKER_URL": "memory://", "SPOOL_DIR": str(folder)}
    return {**used, "TESTING_BROKER": True, **more}


@pytest.fixture
def shop(folder: Path) -> Iterator[Shop]:
    """Its backlog is in memory."""
    with open_shop(**settings(folder)) as shop:
        yield shop


def test_events_from_before_the_backlog_was_in_memory_are_said_once(
    shop: Shop, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = leave(folder, "ab")
    leave(folder, "c", app="stock")
    content = sorted(folder.iterdir())
    with caplog.at_level(logging.WARNING, LOG):
        with shop.events.auto_publish():
            shop.enqueue("new")
        wait_until(lambda: "Spool problem: " in caplog.text, "it is logged")
    stats = shop.events.stats()
    assert stats.spool_error == (
        f"the backlog is in memory, so nobody sends the events in {path.name} in"
        f" {folder}: set EVENTCOLLECTOR_BACKLOG to 'spool' and run 'flask events flush'"
    )
    assert f"Spool problem: {stats.spool_error}" in caplog.text
    assert stats.strays == 1
    assert sorted(folder.iterdir()) == content


def test_the_command_line_says_so_as_well(shop: Shop, folder: Path) -> None:
    path = leave(folder, "ab")
    runner = shop.test_cli_runner()

    result = runner.invoke(args=["events", "status"])
    assert result.exit_code == 4
    assert "The backlog is in the memory of each worker" in result.output
    assert f"nobody sends the events in {path.name}" in result.output

    output = runner.invoke(args=["events", "status", "--json"]).output
    [unreadable] = json.loads(output[output.index("{") :])["unreadable"]
    assert unreadable["path"] == str(path)


def test_without_them_nothing_is_said(
    shop: Shop, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(folder, "c", app="stock")
    with caplog.at_level(logging.INFO, LOG), shop.events.auto_publish():
        shop.enqueue("new")
    assert "pool" not in caplog.text
    assert (shop.events.stats().strays, shop.events.stats().spool_error) == (0, "")
    result = shop.test_cli_runner().invoke(args=["events", "status"])
    assert "nobody sends" not in result.output


def test_a_folder_that_cannot_be_read_is_no_failure(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, "ab")
    denied = PermissionError(13, "Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", failing(denied))
        with shop.events.auto_publish():
            shop.enqueue("new")
    assert shop.sent() == ["new"]


def test_tests_do_not_look(folder: Path) -> None:
    leave(folder, "ab")
    with open_shop(**settings(folder, TESTING_BROKER=False)) as shop:
        with shop.events.auto_publish():
            shop.enqueue("new")
        assert shop.events.stats().strays == 0


@pytest.mark.parametrize("is_default", [False, True])
def test_the_log_says_which_folder_is_used(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_default: bool,
) -> None:
    more = {"BACKLOG": "spool", "SPOOL_NAME": "old shop"}
    used = settings(folder, **more)
    if is_default:
        del used["SPOOL_DIR"]
        instance = str(folder)
        monkeypatch.setattr(Shop, "auto_find_instance_path", lambda _: instance)
        folder /= "eventcollector-spool"
    with caplog.at_level(logging.INFO, LOG), open_shop(**used) as shop:
        for number in range(2):
            with shop.events.auto_publish():
                shop.enqueue(number)
    found = [r for r in caplog.records if r.message.startswith("Spool folder")]
    assert [r.message for r in found] == [f"Spool folder of 'old shop': {folder}"]
    assert found[0].levelno == logging.INFO
