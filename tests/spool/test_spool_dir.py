"""The check of the spool's folder when the app is created."""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from flask_eventcollector.config.spool_dir import OWN_NAME, check_spool_dir
from flask_eventcollector.errors import ConfigurationError
from flask_eventcollector.stores.spool.folder import Folder
from tests.helpers import Shop, in_child
from tests.spool.support import HERE, failing

#: Port 1 has no listener.
NOBODY = "amqp://guest:guest@127.0.0.1:1/"


def problem(path: Path) -> str:
    with pytest.raises(ConfigurationError) as raised:
        check_spool_dir(path, "EVENTCOLLECTOR_SPOOL_DIR")
    message = str(raised.value)
    assert message.startswith(f"EVENTCOLLECTOR_SPOOL_DIR is {str(path)!r}, but ")
    return message


def test_a_folder_of_its_own_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    check_spool_dir(path, "KEY")


def test_a_folder_that_can_be_made_is_fine_and_not_made_yet(tmp_path: Path) -> None:
    check_spool_dir(tmp_path / "a" / "b", "KEY")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert "that is not a folder" in problem(path)
    assert "is not a folder: choose another path" in problem(path / "below")


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o755)
    assert "its mode is 755" in problem(path)
    assert "chmod 700" in problem(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)
    message = problem(path)
    assert "belongs to the user with id 12345" in message
    assert (
        f"or set EVENTCOLLECTOR_SPOOL_DIR to '{path}/{OWN_NAME}', a folder" in message
    )


def test_the_library_closes_a_folder_of_its_own_name_to_others(tmp_path: Path) -> None:
    path = tmp_path / OWN_NAME
    path.mkdir()
    path.chmod(0o2770)
    check_spool_dir(path, "KEY")

    Folder(path, "shop", HERE).make()

    assert path.stat().st_mode & 0o777 == 0o700


def test_the_mode_of_any_other_folder_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    Folder(tmp_path, "shop", HERE).make()
    assert tmp_path.stat().st_mode & 0o777 == 0o750


APP_USER, VOLUME_GROUP = 12345, 23456


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("mode", [0o2775, 0o2755])
def test_the_cure_for_a_mounted_volume_is_one_that_a_pod_can_apply(mode: int) -> None:
    """A volume belongs to root and, with an fsGroup, to the pod's group."""
    with TemporaryDirectory() as above:
        os.chmod(above, 0o755)
        volume = Path(above, "volume")
        volume.mkdir()
        os.chown(volume, 0, VOLUME_GROUP)
        volume.chmod(mode)

        cured, written, found = in_child(lambda: cure_in_a_pod(volume))

    assert "belongs to the user with id 0, not to this process's user" in cured
    if mode == 0o2755:
        assert "let this process's group write to it (fsGroup in Kubernetes)" in cured
        assert "has no permission to create it" in found
        return
    assert "a folder in it that this process can create" in cured
    assert written == 1
    # The next pod finds what Kubernetes has done to it.
    assert found == "fine"


def cure_in_a_pod(volume: Path) -> tuple[str, int, str]:
    """Start as a pod's user, apply the cure of the error, and start again."""
    os.setgroups([VOLUME_GROUP])
    os.setgid(APP_USER)
    os.setuid(APP_USER)
    message = problem(volume)
    cure = re.search("set EVENTCOLLECTOR_SPOOL_DIR to '([^']+)'", message)
    assert cure
    settings: dict[str, Any] = {"SPOOL_DIR": cure[1], "BACKLOG": "spool"}
    try:
        shop = Shop(**settings, BROKER_URL=NOBODY, TESTING_BROKER=True)
    except ConfigurationError as error:
        return message, 0, str(error)
    shop.enqueue("a")
    shop.events.publish()
    spooled = shop.events.stats().spooled
    shop.events.close(0)
    # As Kubernetes does at each mount, with fsGroupChangePolicy "Always".
    os.chmod(cure[1], 0o2770)
    Shop(**settings)
    return message, spooled, "fine"


def test_a_folder_without_write_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "has no write permission" in problem(path)
    assert "has no permission to create it in" in problem(tmp_path / "other")


def test_a_folder_without_read_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "stat", failing(PermissionError()))
    assert "run this as the user that runs the app" in problem(tmp_path)


def test_a_path_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "Too many levels of symbolic links" in problem(loop / "spool")
    assert "(File name too long): choose another path" in problem(
        tmp_path / ("a" * 256)
    )


def test_a_system_without_posix_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_eventcollector.config.spool_dir.os.name", "nt")
    with pytest.raises(ConfigurationError, match="needs POSIX file locks"):
        check_spool_dir(tmp_path, "KEY")


def test_it_is_checked_when_the_app_is_made(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ConfigurationError, match="that is not a folder") as raised:
        Shop(BACKLOG="spool", SPOOL_DIR=str(path))
    # click is not involved without a command.
    assert type(raised.value) is ConfigurationError
    Shop(BACKLOG="memory", SPOOL_DIR=str(path))
