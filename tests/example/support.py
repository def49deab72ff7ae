"""Shared by the tests of the example."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

ROOT = Path(__file__).parents[2]
PYTHON = (sys.executable, "-X", "utf8")

#: Seconds: longer than any wait should take on a busy machine.
DEADLINE = 20.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as the condition holds; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.01)


def database_uri(folder: Path) -> str:
    """Return the URI of a new database."""
    return f"sqlite:///{folder / 'shop.sqlite3'}"


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a shop's process with a new database."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
    uri = database_uri(folder)
    return inherited | {"FLASK_SQLALCHEMY_DATABASE_URI": uri} | variables


def run_python(
    folder: Path, *arguments: str, typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python until it ends, with a shop's environment and some input."""
    return subprocess.run(
        [*PYTHON, *arguments],
        cwd=ROOT,
        env=environment(folder, **variables),
        input=typed,
        capture_output=True,
        text=True,
        timeout=DEADLINE * 2,
        check=False,
    )


def script_client(app: Flask) -> FlaskClient:
    """Return a client that requests JSON, like the page's script."""
    client = app.test_client()
    client.environ_base["HTTP_ACCEPT"] = "application/json"
    return client


def state(visitor: FlaskClient) -> dict[str, Any]:
    """Return the page's data."""
    shown: dict[str, Any] = visitor.get("/state.json").get_json()
    return shown


def books(visitor: FlaskClient) -> dict[str, Any]:
    """Return where the events are, without the zeros."""
    omitted = {
        "enqueued",
        "adopted",
        "held_bytes",
        "oldest_age",
        "broker",
        "broker_error",
    }
    omitted |= {"problem_targets", "problems"}
    shown = state(visitor)["books"]
    return {k: v for k, v in shown.items() if v and k not in omitted}


def order(visitor: FlaskClient, quantity: int = 1) -> int:
    """Place an order; return the status of the response."""
    form = {"product": 1, "quantity": quantity}
    return visitor.post("/orders", data=form).status_code
