"""The README is correct."""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from blinker import Signal

import flask_eventcollector
from flask_eventcollector import Config
from flask_eventcollector.config.settings import publish_on_success

README = Path(__file__).parents[1] / "README.md"


def table(heading: str) -> dict[str, str]:
    """The first two columns of the table below *heading*."""
    section = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line[:1] == "|"]
    return {key.strip(): value.strip() for key, value in rows[2:]}


def value_of(text: str) -> Any:
    """A default of the README as a value."""
    if text.startswith("`"):
        return ast.literal_eval(text.strip("`"))
    if text == "none":
        return None
    number, mebi, _ = text.replace(" ", "").partition("MiB")
    return float(number) * (2**20 if mebi else 1)


def default_of(field: Field[Any]) -> Any:
    """The default as one would write it in a configuration."""
    if field.default is MISSING:
        return {}
    if field.default is publish_on_success:
        return "success"
    return getattr(field.default, "value", field.default)


def test_every_setting_is_listed_with_its_default() -> None:
    listed = {
        key: value
        for keys, values in table("Settings").items()
        for key, value in zip(
            re.findall(r"[A-Z_]{4,}", keys), values.split(", "), strict=True
        )
    }
    known = {
        field.name.upper().replace("BROKER_URLS", "BROKER_URL"): default_of(field)
        for field in fields(Config)
    }

    assert listed.pop("SPOOL_DIR") == "a folder in the instance folder"
    assert known.pop("SPOOL_DIR") is None
    assert {key: value_of(value) for key, value in listed.items()} == known


def test_every_signal_is_listed_with_its_arguments() -> None:
    signals = {name.strip("`") for name in table("Know what happens")}

    public = {n: getattr(flask_eventcollector, n) for n in flask_eventcollector.__all__}
    assert signals == {n for n, value in public.items() if isinstance(value, Signal)}
