"""Blocks, the console and a script: events outside of requests."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app.broker import embedded_broker
from example_app.models import Product, db
from example_app.nightly import count_stock
from example_app.publishing import events
from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.testing import FaultInjector

from .support import order, run_python


def test_restocking_is_one_block_and_one_batch(shop: Flask) -> None:
    result = shop.test_cli_runner().invoke(args=["shop", "restock", "--quantity", "5"])

    assert result.exit_code == 0, result.output
    assert "3 of 3 events confirmed." in result.output
    with shop.app_context():
        mug = db.session.get(Product, 1)
        assert mug
        assert mug.stock == 45


def test_a_restock_that_fails_sends_nothing(shop: Flask) -> None:
    result = shop.test_cli_runner().invoke(
        args=["shop", "restock", "--quantity", "-20"]
    )

    assert result.exit_code == 1
    with shop.app_context():
        mug = db.session.get(Product, 1)
        assert mug
        assert mug.stock == 40
        # Two products had 20 in stock; the database rejected the third.
        assert events.stats().discarded == 2
        assert events.stats().confirmed == 0


def test_a_recall_writes_to_each_buyer(shop: Flask, visitor: FlaskClient) -> None:
    order(visitor)
    order(visitor)

    result = shop.test_cli_runner().invoke(args=["shop", "recall", "Coffee mug"])

    assert result.exit_code == 0, result.output
    assert "2 mails to send." in result.output
    assert len(_broker(shop).events("mail.send")) == 2


def test_a_command_reports_that_its_events_do_not_arrive(
    shop: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    FaultInjector.of(_broker(shop)).go_down()
    monkeypatch.setattr("example_app.cli.ARRIVAL_TIMEOUT", 0.05)

    result = shop.test_cli_runner().invoke(args=["shop", "restock"])

    assert result.exit_code == 1
    assert "The broker is down" in result.output


def test_the_nightly_script_reports_the_stock(shop: Flask) -> None:
    assert count_stock(shop)

    (event,) = _broker(shop).events("stock.counted")
    assert event.payload["stock"]["Coffee mug"] == 40


def test_the_nightly_script_shows_that_the_report_was_not_confirmed(
    shop: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    FaultInjector.of(_broker(shop)).go_down()

    assert not count_stock(shop, timeout=0.05)
    assert "Not confirmed" in capsys.readouterr().err


def test_the_nightly_script_ends_with_0_when_it_is_confirmed(tmp_path: Path) -> None:
    script = run_python(tmp_path, "-m", "example_app.nightly")

    assert script.returncode == 0, script.stderr
    assert "the broker confirmed the report" in script.stdout


def test_in_the_console_each_event_is_sent_at_once(tmp_path: Path) -> None:
    typed = """
event = events.enqueue_event({"sku": 1}, "stock.counted")
print("confirmed:", events.stats().confirmed)
event = events.enqueue_event({"sku": 2}, "stock.counted")
print("confirmed:", events.stats().confirmed)
"""
    console = run_python(
        tmp_path, "-m", "flask", "--app", "example_app", "shell", typed=typed
    )

    assert console.returncode == 0, console.stderr
    assert "confirmed: 1" in console.stdout
    assert "confirmed: 2" in console.stdout


def _broker(shop: Flask) -> MemoryBroker:
    with shop.app_context():
        broker = embedded_broker()
    assert broker
    return broker
