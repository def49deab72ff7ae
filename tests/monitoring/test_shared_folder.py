"""Which processes are gone that share a folder of prometheus_client."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from flask_eventcollector import Stats
from flask_eventcollector.monitoring import life, prometheus, shared_folder
from flask_eventcollector.monitoring.prometheus import (
    PrometheusMetrics,
    PrometheusOutbox,
    exposition,
)
from flask_eventcollector.monitoring.shared_folder import gone, show_life
from tests.helpers import unmeasured


def file_of(folder: Path, process: int) -> Path:
    return folder / f"gauge_livesum_{process}.db"


def lock_of(folder: Path, process: int) -> Path:
    return folder / f"gauge_livesum_{process}.db.lock"


#: Ids that no process has: Linux has none above 2 ** 22.
NOBODY, NO_OTHER = 2**22 + 1, 2**22 + 23


def leave(folder: Path, process: int) -> Path:
    """What a process has left that was killed; returns its gauges."""
    lock_of(folder, process).touch()
    file_of(folder, process).touch()
    return file_of(folder, process)


def test_who_has_left_its_lock_is_gone(tmp_path: Path) -> None:
    leave(tmp_path, NOBODY)
    leave(tmp_path, NO_OTHER)
    assert sorted(gone(tmp_path)) == [NOBODY, NO_OTHER]
    assert [*gone(tmp_path)] == []


def test_who_has_no_lock_is_left_alone(tmp_path: Path) -> None:
    """It may not have this library, or not have shown yet that it lives."""
    file_of(tmp_path, NOBODY).touch()
    assert [*gone(tmp_path)] == []


def test_who_has_the_id_of_one_that_is_gone_keeps_its_files(tmp_path: Path) -> None:
    """In a container that was restarted, it is the same worker, before its first event.

    It may have gauges of its own, and would go on writing into removed files.
    """
    with subprocess.Popen(["sleep", "60"]) as other:
        leave(tmp_path, other.pid)
        assert [*gone(tmp_path)] == []
        other.kill()
        other.wait()
        assert [*gone(tmp_path)] == [other.pid]


def test_another_user_s_process_is_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: int, signal: int) -> None:
        raise PermissionError

    leave(tmp_path, NOBODY)
    monkeypatch.setattr(os, "kill", refuse)
    assert [*gone(tmp_path)] == []


@pytest.mark.parametrize(
    "name",
    ["x", "", "0", "-1", "007", "1_0", "*", "99999999999", "\u0663", "9999999999"],
)
def test_a_foreign_file_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / f"gauge_livesum_{name}.db.lock").touch()
    (tmp_path / f"gauge_liveall_{NOBODY}.db.lock").touch()
    lock_of(tmp_path, NO_OTHER).mkdir()
    assert [*gone(tmp_path)] == []


def test_a_missing_folder_has_nobody(tmp_path: Path) -> None:
    show_life(tmp_path / "missing")
    assert [*gone(tmp_path / "missing")] == []


def test_without_locks_nobody_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "HAS_LOCKS", False)
    file_of(tmp_path, os.getpid()).touch()
    show_life(tmp_path)
    assert not lock_of(tmp_path, os.getpid()).exists()
    leave(tmp_path, NOBODY)
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
    leave(tmp_path, NOBODY)
    # Looking does not unlock it.
    assert [*gone(tmp_path)] == [NOBODY]
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


#: A process and its child, which both live, look who is gone.
FORK = """
import os, subprocess, sys
from pathlib import Path
from flask_eventcollector.monitoring.shared_folder import gone, show_life
folder = Path(sys.argv[1])
def show():
    (folder / f"gauge_livesum_{os.getpid()}.db").touch()
    show_life(folder)
show()
ends, wait = os.pipe(), os.pipe()
if os.fork():
    assert os.read(ends[0], 1)
    look = subprocess.run(
        [sys.executable, "-c", LOOK, str(folder)], capture_output=True, text=True
    )
    print(look.stdout.strip(), [*gone(folder)], flush=True)
    os.write(wait[1], b"x")
    os.wait()
else:
    show()
    assert [*gone(folder)] == []
    os.write(ends[1], b"x")
    os.read(wait[0], 1)
    os._exit(0)
""".replace("LOOK", repr(LOOK))


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
    for process in (NOBODY, os.getpid()):
        lock_of(tmp_path, process).symlink_to(tmp_path / "victim")
    show_life(tmp_path)
    assert [*gone(tmp_path)] == []
    assert not (tmp_path / "victim").exists()


def test_the_metrics_look_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metrics = PrometheusMetrics(f"shop-{uuid.uuid4()}", ())
    first = leave(tmp_path, NOBODY)
    metrics.observe([], Stats())
    assert not first.exists()
    second = leave(tmp_path, NO_OTHER)
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
    leave(tmp_path, NOBODY)
    PrometheusMetrics(f"shop-{uuid.uuid4()}", ()).observe([], Stats())
    assert not lock_of(tmp_path, NOBODY).exists()


def test_a_failure_is_no_reason_to_forget_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the next look tries again, once the folder can be written."""

    def fail(process: int, folder: str) -> None:
        raise PermissionError(folder)

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    left = leave(tmp_path, NOBODY)
    metrics = PrometheusMetrics(f"shop-{uuid.uuid4()}", ())
    with monkeypatch.context() as patch:
        patch.setattr(prometheus, "mark_process_dead", fail)
        with pytest.raises(PermissionError):
            metrics.observe([], Stats())
    assert left.exists()
    PrometheusMetrics(f"shop-{uuid.uuid4()}", ()).observe([], Stats())
    assert not left.exists()


def test_nothing_is_written_where_it_would_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write into a file that is mapped into memory, on a full disk."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    name = f"shop-{uuid.uuid4()}"
    metrics = PrometheusMetrics(name, ())
    outbox = PrometheusOutbox(name, lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(shared_folder, "ROOM", 1 << 60)
        for observer in (metrics, outbox):
            with pytest.raises(OSError, match=f"No room for metrics: '{tmp_path}'"):
                observer.observe([], Stats(confirmed=3))
            observer.close()
    assert f'app="{name}"' not in exposition()[0].decode()
    for observer in (metrics, outbox):
        observer.observe([], Stats(confirmed=3))
    assert f'{{app="{name}",outcome="confirmed"}} 3.0' in exposition()[0].decode()


def test_a_forked_child_shows_its_own_life_and_leaves_its_parents(
    tmp_path: Path,
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path)],
        capture_output=True,
        text=True,
        env=unmeasured(),
        timeout=60,
    )
    assert run.stdout == "[] []\n", run.stderr


#: An app with a gauge of its own, which it has from its start.
APP = """
from flask import Flask
from prometheus_client import Counter, Gauge
from flask_eventcollector import EventCollector
Gauge("shop_jobs", "Jobs that run.", multiprocess_mode="livesum").set(1)
Counter("shop_starts", "Starts.").inc()
app = Flask("shop")
app.config["EVENTCOLLECTOR_BROKER_URL"] = "memory://"
app.config["EVENTCOLLECTOR_METRICS"] = "prometheus"
events = EventCollector(app)
"""


@pytest.mark.parametrize(
    ("command", "typed"),
    [("events topology check", ""), ("shell", "events.enqueue_event(1, 'q')\n")],
)
def test_a_command_counts_for_no_process_once_it_has_ended(
    tmp_path: Path, command: str, typed: str
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    subprocess.run(
        [sys.executable, "-m", "flask", "--app", "shop", *command.split()],
        cwd=tmp_path,
        env=unmeasured() | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)},
        input=typed,
        text=True,
        timeout=60,
    )
    kinds = {file.name.rpartition("_")[0] for file in metrics.iterdir()}
    assert "counter" in kinds
    assert not any(kind.startswith("gauge_live") for kind in kinds)
