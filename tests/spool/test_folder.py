"""The spool's folder: the owners of its files, and orphans."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flask_eventcollector.stores.spool.folder import (
    Folder,
    ForeignFile,
    can_hold_events,
    claim_orphan,
    holder_of,
)
from tests.spool.support import APP, HERE, leave

OWNER = """
import sys
from pathlib import Path
from flask_eventcollector.stores.spool.destination import Destination
from flask_eventcollector.stores.spool.folder import Folder
here = Destination(("amqp://rabbit:5672/shop",))
claim = Folder(Path(sys.argv[1]), sys.argv[2], here).claim_new()
claim.path.touch()
print(claim.path, flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "spool", APP, HERE)
    folder.make()
    return folder


@contextmanager
def owner(
    folder: Folder, app: str = APP
) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Another process with its own file."""
    command = [sys.executable, "-c", OWNER, str(folder.path), app]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process
        process.kill()


def orphans(folder: Folder) -> list[Path]:
    claims = list(folder.claim_orphans())
    for claim in claims:
        claim.release()
    return [claim.path for claim in claims]


def holder_as_others_see_it(path: Path) -> str:
    code = "import sys; from pathlib import Path\n"
    code += "from flask_eventcollector.stores.spool.folder import holder_of\n"
    code += "print(holder_of(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.check_output(command, text=True).strip()


def test_only_its_owner_may_enter_it(folder: Folder) -> None:
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "nowhere", APP, HERE)
    assert folder.files() == []
    assert not folder.has_orphans()


def test_a_new_file_is_named_after_app_and_process(folder: Folder) -> None:
    claim = Folder(folder.path, "a/b@c", HERE).claim_new()
    assert claim.path.name.startswith(f"a%2Fb%40c@{HERE.digest}@{os.getpid()}@")
    claim.remove()


def test_each_file_has_a_name_of_its_own(folder: Folder) -> None:
    claims = [folder.claim_new() for _ in range(3)]
    assert len({claim.path for claim in claims}) == 3
    for claim in claims:
        claim.remove()
    assert list(folder.path.iterdir()) == []


def test_a_living_process_keeps_its_file(folder: Folder) -> None:
    with owner(folder) as (path, process):
        assert holder_of(path) == process.pid
        assert orphans(folder) == []
        process.kill()
        process.wait()
        assert holder_of(path) is None
        assert orphans(folder) == [path]


def test_a_file_is_claimed_once_in_one_process(folder: Folder) -> None:
    path = leave(folder.path, "a")
    claim = claim_orphan(path)
    assert claim is not None
    # A second scan must not release the first one's lock either.
    assert claim_orphan(path) is None
    assert holder_as_others_see_it(path) == str(os.getpid())
    claim.release()
    assert orphans(folder) == [path]


def test_a_forked_child_never_holds_its_parents_file(folder: Folder) -> None:
    claim = folder.claim_new()
    claim.path.touch()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        # Operations of the child on its copy of the lock have no effect.
        os.write(writer, b"free" if holder_of(claim.path) is None else b"held")
        os.close(claim._descriptor)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 9) == b"held"
    assert holder_as_others_see_it(claim.path) == str(os.getpid())
    claim.remove()
    os.close(reader)
    os.close(writer)


def test_an_orphan_is_free_although_a_child_of_its_owner_lives(folder: Folder) -> None:
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from flask_eventcollector.stores.spool.folder import Folder\n"
        "from tests.spool.support import HERE\n"
        f"claim = Folder(Path(sys.argv[1]), {APP!r}, HERE).claim_new()\n"
        "claim.path.touch()\n"
        "if os.fork() == 0:\n"
        "    sys.stdin.read(); os._exit(0)\n"
        "print(claim.path, flush=True); os.kill(os.getpid(), 9)\n"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, str(folder.path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        process.wait()
        assert orphans(folder) == [path]


def test_another_apps_files_are_not_its_own(folder: Folder) -> None:
    path = leave(folder.path, "a")
    assert orphans(Folder(folder.path, "shop2", HERE)) == []
    assert orphans(Folder(folder.path, "sho", HERE)) == []
    assert orphans(folder) == [path]


def test_a_file_that_was_removed_meanwhile_is_no_orphan(folder: Folder) -> None:
    path = leave(folder.path, "a")
    path.unlink()
    assert claim_orphan(path) is None
    assert list(folder.path.iterdir()) == []


def test_a_quarantined_file_is_not_found_again(folder: Folder) -> None:
    path = leave(folder.path, "a")
    (folder.path / f"{path.name}-wal").touch()
    claim = claim_orphan(path)
    assert claim is not None
    quarantined = claim.quarantine()
    assert quarantined.name == f"{path.name}.quarantined"
    assert {p.name for p in folder.path.iterdir()} == {
        quarantined.name,
        f"{quarantined.name}-wal",
    }
    assert folder.files() == []


def test_a_lock_without_permission_belongs_to_no_process(folder: Folder) -> None:
    path = leave(folder.path, "a")
    lock = Path(f"{path}.lock")
    lock.unlink()
    lock.symlink_to("elsewhere")
    assert orphans(folder) == []
    assert not (folder.path / "elsewhere").exists()


def test_only_own_regular_files_are_opened(folder: Folder) -> None:
    path = leave(folder.path, "a")
    assert can_hold_events(path)
    link = folder.path / "link"
    link.symlink_to(path)
    with pytest.raises(ForeignFile, match="it is not a regular file"):
        can_hold_events(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_is_not_opened(folder: Folder) -> None:
    path = leave(folder.path, "a")
    os.chown(path, 12345, -1)
    with pytest.raises(ForeignFile, match="it belongs to the user with id 12345"):
        can_hold_events(path)


def test_what_was_let_go_here_is_left_to_the_next_process(folder: Folder) -> None:
    claim = folder.claim_new()
    claim.path.touch()
    claim.release()
    # Its events are still known here, and would be rejected as duplicates.
    assert list(folder.claim_orphans()) == []
    [found] = Folder(folder.path, "shop", HERE).claim_orphans()
    assert found.path == claim.path
    found.release()
