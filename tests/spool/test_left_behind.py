"""What the log says at the start about events on disk that this app does not use."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector.stores.spool import adopter, strays
from flask_eventcollector.stores.spool.folder import claim_orphan
from tests.helpers import Shop, open_shop, wait_until
from tests.spool.support import ELSEWHERE, failing, leave

LOG = "flask_eventcollector"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    used = {"BROKER_URL": "memory://", "SPOOL_DIR": str(folder)}
    return {**used, "TESTING_BROKER": True, **more}


def visit(shop: Shop) -> None:
    """A request that enqueues nothing."""
    shop.add_url_rule("/", "view", lambda: "ok")
    assert shop.test_client().get("/").status_code == 200


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
    wait_until(lambda: shop.events.stats().stray_events == 2, "its events are counted")
    assert sorted(folder.iterdir()) == content


def test_the_first_request_says_so_even_if_it_enqueues_nothing(
    shop: Shop, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(folder, "ab")
    with caplog.at_level(logging.WARNING, LOG):
        visit(shop)
        wait_until(lambda: "the backlog is in memory" in caplog.text, "it is logged")


def test_a_first_call_finds_them_as_well(shop: Shop, folder: Path) -> None:
    leave(folder, "ab")
    assert shop.events.stats().strays == 1


def test_the_command_line_says_so_as_well(shop: Shop, folder: Path) -> None:
    path = leave(folder, "ab")
    runner = shop.test_cli_runner()

    result = runner.invoke(args=["events", "status"])
    assert result.exit_code == 4
    assert "The backlog is in memory" in result.output
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


@pytest.mark.parametrize(
    ("left", "text"),
    [
        ({"app": "old shop"}, "have left events: 'old shop' (2 events in 1 file)"),
        ({"destination": ELSEWHERE}, "(2 events for amqp://rabbit:5672/billing)"),
    ],
)
def test_the_first_request_finds_what_nobody_will_adopt(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    left: dict[str, Any],
    text: str,
) -> None:
    monkeypatch.setattr(strays, "PATIENCE", 0.1)
    monkeypatch.setattr(adopter, "SCAN_INTERVAL", 0.0)
    leave(folder, "ab", **left)
    with (
        caplog.at_level(logging.WARNING, LOG),
        open_shop(**settings(folder, BACKLOG="spool")) as shop,
    ):
        visit(shop)
        wait_until(lambda: text in caplog.text, "it is logged")
        stats = shop.events.stats()
    assert (stats.strays, stats.stray_events, stats.enqueued) == (1, 2, 0)


def test_what_a_running_app_has_begins_no_thread(folder: Path) -> None:
    claim = claim_orphan(leave(folder, "ab", app="stock"))
    assert claim is not None
    with open_shop(**settings(folder, BACKLOG="spool")) as shop:
        visit(shop)
        assert not shop.extensions["eventcollector"].delivery_if_used()
    claim.release()


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
