"""Examples that need no test of their own: programs, settings, commands."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from flask_eventcollector import EventCollector
from flask_eventcollector.config.broker_url import parse_broker_urls
from tests.docs.reader import Example, find, find_one, runs, runs_each
from tests.helpers import open_shop

PROGRAMS = find(page="docs/signals.md", language="python")
SETTINGS = [e for e in find(language="python") if e.code.startswith("EVENTCOLLECTOR_")]
COMMANDS = [
    example
    for page in ("benchmarks", "deployment", "faults", "faults-long")
    for example in find(page=f"docs/{page}.md", language="sh")
]
#: What `python -m` runs of these is a module of its own.
PACKAGES = ("benchmarks", "tests.faults")
BOOKS = find_one(page="docs/signals.md", language="text")
URL = find_one(page="docs/reference/settings.md", language="text")
LOST = find_one(page="docs/deployment.md", language="text")
RQ = find_one(
    page="docs/deployment.md", language="python", heading="Without exit handlers"
)


@runs_each(PROGRAMS)
def test_a_program_runs(example: Example, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(example.code)
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, timeout=60)


@runs_each(SETTINGS)
def test_settings_are_accepted(example: Example, tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(
        example.code.replace("/var/lib/", f"{tmp_path}/")
    )
    app = Flask("shop")
    app.config.from_pyfile(str(tmp_path / "settings.py"))

    EventCollector(app)

    assert any(key.startswith("EVENTCOLLECTOR_") for key in app.config)


@runs(URL)
def test_a_url_is_accepted() -> None:
    [url] = parse_broker_urls(URL.code.strip(), "the page's URL")

    assert (url.host, url.port) == ("host", 5671)


@runs_each(COMMANDS)
def test_a_command_understands_its_arguments(example: Example) -> None:
    lines = [shlex.split(line, comments=True) for line in example.code.splitlines()]
    assert lines
    for python, option, name, *arguments in lines:
        assert (python, option) == ("python", "-m")
        main = f"{name}.__main__" if name in PACKAGES else name
        importlib.import_module(main).parser().parse_args(arguments)


@runs(BOOKS)
def test_the_books_balance() -> None:
    ins, outs = BOOKS.code.split("=")
    with open_shop() as shop, shop.app_context():
        shop.enqueue(1, 2, 3)
        shop.events.publish()
        shop.enqueue(4)
        books = asdict(shop.events.stats())

    assert eval(ins, books.copy()) == eval(outs, books.copy()) == 4


@runs(LOST)
def test_the_log_reports_what_an_end_has_lost(caplog: pytest.LogCaptureFixture) -> None:
    with open_shop() as shop, shop.app_context():
        shop.faults.go_down()
        shop.enqueue(*range(100), queue="orders.created")
        shop.events.publish()

    assert LOST.code.strip() in caplog.messages


@runs(RQ)
def test_a_worker_of_rq_closes_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_shop() as shop:

        class Worker:
            def perform_job(self, payload: str, *, queue: str) -> bool:
                with shop.events.auto_publish():
                    shop.enqueue(payload, queue=queue)
                return True

        monkeypatch.setitem(sys.modules, "rq", SimpleNamespace(Worker=Worker))
        monkeypatch.setitem(sys.modules, "myapp", SimpleNamespace(events=shop.events))
        names: dict[str, Any] = {}
        exec(RQ.code, names)

        assert names["EventWorker"]().perform_job("an order", queue="q")

        assert shop.books() == {"confirmed": 1}
        assert shop.events.stats().broker == "closed"
