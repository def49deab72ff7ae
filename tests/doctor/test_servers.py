"""What can be seen of how the app's server is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flask_eventcollector.doctor.servers import Gunicorn, command_lines, gunicorn

CONFIG = """\
import multiprocessing
workers = multiprocessing.cpu_count()
worker_class = "gthread"
timeout = 20
preload_app = True
graceful_timeout = "soon"
bind = ":8000"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY":
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_any_sign_the_defaults_count() -> None:
    assert gunicorn() == Gunicorn()


def test_a_file_is_read_and_not_run(folder: Path) -> None:
    (folder / "gunicorn.conf.py").write_text(CONFIG)
    assert gunicorn() == Gunicorn(
        worker_class="gthread",
        timeout=20,
        preload_app=True,
        source="gunicorn.conf.py",
    )


@pytest.mark.parametrize("text", ["timeout =", "workers = None", "a.b = 1", "\0"])
def test_a_file_that_says_nothing_is_ignored(text: str, folder: Path) -> None:
    (folder / "gunicorn.conf.py").write_text(text)
    assert gunicorn()[:-1] == Gunicorn()[:-1]


def test_the_environment_counts_more_and_a_command_line_most(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "gunicorn.conf.py").write_text(CONFIG)
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--timeout=9 -k sync 'shop:app'")
    assert gunicorn().workers == 3
    assert gunicorn().timeout == 9
    assert gunicorn().source == "GUNICORN_CMD_ARGS"
    lines = [
        ["/usr/bin/python3", "-m", "flask", "run"],
        ["/usr/bin/python3", "/usr/bin/gunicorn", "shop:app", "-t", "7", "-w", "2"],
    ]
    found = gunicorn(lines)
    assert (found.timeout, found.workers, found.worker_class) == (7, 2, "sync")
    assert found.source == "the command line of a worker"


@pytest.mark.parametrize("name", ["other.py", "file:other.py"])
def test_the_file_that_a_worker_was_given_is_read(name: str, folder: Path) -> None:
    (folder / "gunicorn.conf.py").write_text("timeout = 60")
    (folder / "other.py").write_text("timeout = 5\nworkers = 3")
    found = gunicorn([["/usr/bin/gunicorn", "-c", name, "-w", "2", "shop:app"]])
    assert (found.timeout, found.workers) == (5, 2)


@pytest.mark.parametrize("arguments", ["--timeout soon", "-w", "'"])
def test_arguments_that_are_wrong_are_ignored(
    arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
    assert gunicorn()[:-1] == Gunicorn()[:-1]


def test_a_process_that_is_gone_has_no_command_line() -> None:
    (own,) = command_lines(iter([os.getpid(), 2**22 + 1]))
    assert "python" in own[0]
