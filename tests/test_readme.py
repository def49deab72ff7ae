"""The README tells the truth."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import flask_eventcollector
from flask_eventcollector import Config, EventCollector, Stats

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def table(heading: str) -> dict[str, str]:
    """The first two columns of the table below *heading*."""
    section = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line[:1] == "|"]
    return {key.strip(): value.strip() for key, value in rows[2:]}


def pasted(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    """What the first block defines when it is run."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    names: dict[str, Any] = {"__name__": "pasted"}
    exec(blocks("python")[0], names)
    return names


def test_the_first_block_works_when_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    names = pasted(monkeypatch)
    app: Flask = names["app"]
    events: EventCollector = names["events"]

    assert app.test_client().post("/orders/7").text == "placed"

    [event] = events.broker.events("orders.created")  # type: ignore[attr-defined]
    assert event.payload == json.loads(blocks("json")[0])
    assert events.close(5)


@pytest.mark.rabbitmq
def test_it_publishes_to_rabbitmq_by_two_variables(
    monkeypatch: pytest.MonkeyPatch, rabbitmq: Any
) -> None:
    url, queues = re.findall(r"export \w+=(.*)", blocks("sh")[0])
    assert url.startswith("amqp://guest:guest@")
    names = pasted(
        monkeypatch,
        FLASK_EVENTCOLLECTOR_BROKER_URL=rabbitmq.url,
        FLASK_EVENTCOLLECTOR_QUEUES=queues.strip("'"),
    )

    names["app"].test_client().post("/orders/7")

    assert names["events"].close(10)
    [message] = rabbitmq.get_all("orders.created")
    assert message.json() == {"order_id": 7}
    rabbitmq.delete("orders.created")


def test_every_setting_is_listed_with_its_default() -> None:
    listed = {
        key: value
        for keys, value in table("Settings").items()
        for key in re.findall(r"[A-Z_]{4,}", keys)
    }
    known = {field.name.upper().replace("BROKER_URLS", "BROKER_URL"): field
             for field in fields(Config)}  # fmt: skip

    assert listed.keys() == known.keys()
    assert listed["CONFIRM_TIMEOUT"] == str(known["CONFIRM_TIMEOUT"].default)
    assert listed["AUTOFLUSH"] == f"`{known['AUTOFLUSH'].default}`"
    assert known["MAX_EVENTS"].default == 100_000
    assert known["MAX_BYTES"].default == 64 * 1024 * 1024
    assert known["MAX_EVENT_BYTES"].default == 1024 * 1024
    for key in ("MAX_IN_FLIGHT", "DEAD_AFTER", "HEARTBEAT", "SHUTDOWN_TIMEOUT"):
        default = known[key].default
        assert default is not MISSING
        assert float(listed[key].replace(" ", "")) == default


def test_every_signal_is_listed_with_its_arguments() -> None:
    signals = {name.strip("`") for name in table("Know what happens")}

    assert signals == {n for n in flask_eventcollector.__all__ if n.islower()}


def test_the_books_are_those_of_stats() -> None:
    [line] = re.findall(r"^ {4}(enqueued \+ adopted = .*)$", README.read_text(), re.M)

    names = re.findall(r"\w+", line)
    assert set(names) <= {field.name for field in fields(Stats)}
