"""Which processes are gone that share a folder of prometheus_client."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from flask_eventcollector import Stats
from flask_eventcollector.monitoring import prometheus
from flask_eventcollector.monitoring.prometheus import PrometheusMetrics
from flask_eventcollector.monitoring.shared_folder import gone, show_life
from tests.helpers import unmeasured


def file_of(folder: Path, process: int) -> Path:
    return folder / f"gauge_livesum_{process}.db"


def lock_of(folder: Path, process: int) -> Path:
    return folder / f"gauge_livesum_{process}.db.lock"


def leave(folder: Path, process: int) -> Path:
    """What a process has left that was killed; returns its gauges."""
    lock_of(folder, process).touch()
    file_of(folder, process).touch()
    return file_of(folder, process)


def test_who_has_left_its_lock_is_gone(tmp_path: Path) -> None:
    leave(tmp_path, 1)
    leave(tmp_path, 23)
    assert sorted(gone(tmp_path)) == [1, 23]
    assert [*gone(tmp_path)] == []


def test_who_has_no_lock_is_left_alone(tmp_path: Path) -> None:
    """It may not have this library, or not have shown yet that it lives."""
    file_of(tmp_path, 1).touch()
    assert [*gone(tmp_path)] == []


def test_this_process_lives_once_it_has_metrics(tmp_path: Path) -> None:
    show_life(tmp_path)
    assert [*tmp_path.iterdir()] == []
    file_of(tmp_path, os.getpid()).touch()
    for _ in range(2):
        show_life(tmp_path)
        assert lock_of(tmp_path, os.getpid()).exists()
        assert [*gone(tmp_path)] == []


#: Another process, which looks who is gone.
LOOK = """
import sys
from pathlib import Path
from flask_eventcollector.monitoring.shared_folder import gone
print([*gone(Path(sys.argv[1]))])
"""


def test_another_process_sees_that_this_one_lives(tmp_path: Path) -> None:
    file_of(tmp_path, os.getpid()).touch()
    show_life(tmp_path)
    leave(tmp_path, 1)
    # Looking does not unlock it.
    assert [*gone(tmp_path)] == [1]
    run = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path)],
        capture_output=True,
        text=True,
        env=unmeasured(),
        timeout=60,
    )
    assert run.stdout == "[]\n", run.stderr


#: Another process, which lives until the end of its input.
LIVE = """
import os, sys
from pathlib import Path
from flask_eventcollector.monitoring.shared_folder import show_life
folder = Path(sys.argv[1])
(folder / f"gauge_livesum_{os.getpid()}.db").touch()
show_life(folder)
print("shown", flush=True)
sys.stdin.read()
"""


def test_another_process_is_gone_once_it_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LIVE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=unmeasured(),
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"shown\n"
        assert [*gone(tmp_path)] == []
        other.kill()
        other.wait()
        assert [*gone(tmp_path)] == [other.pid]


def test_what_is_no_lock_is_not_followed(tmp_path: Path) -> None:
    """Another user may have put it there, if the folder is shared."""
    file_of(tmp_path, os.getpid()).touch()
    for process in (1, os.getpid()):
        lock_of(tmp_path, process).symlink_to(tmp_path / "victim")
    show_life(tmp_path)
    assert [*gone(tmp_path)] == []
    assert not (tmp_path / "victim").exists()


def test_the_metrics_look_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metrics = PrometheusMetrics(f"shop-{uuid.uuid4()}", ())
    first = leave(tmp_path, 1)
    metrics.observe([], Stats())
    assert not first.exists()
    second = leave(tmp_path, 2)
    metrics.observe([], Stats())
    assert second.exists()
    PrometheusMetrics(f"shop-{uuid.uuid4()}", ()).observe([], Stats())
    assert not second.exists()


def test_two_that_clean_up_at_once_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(process: int, folder: str) -> None:
        raise FileNotFoundError(folder)

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(prometheus, "mark_process_dead", fail)
    leave(tmp_path, 1)
    PrometheusMetrics(f"shop-{uuid.uuid4()}", ()).observe([], Stats())
    assert not lock_of(tmp_path, 1).exists()
