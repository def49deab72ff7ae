"""The README is correct."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import flask_eventcollector
from flask_eventcollector import Config

README = Path(__file__).parents[1] / "README.md"


def table(heading: str) -> dict[str, str]:
    """The first two columns of the table below *heading*."""
    section = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line[:1] == "|"]
    return {key.strip(): value.strip() for key, value in rows[2:]}


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
