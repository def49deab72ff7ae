"""Whether a folder can hold the spool: checked when the app is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flask_eventcollector.config.spool_dir import check_spool_dir
from flask_eventcollector.errors import ConfigurationError
from tests.helpers import Shop
from tests.spool.support import failing


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
    assert "belongs to the user with id 12345" in problem(path)


def test_what_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "has no write permission" in problem(path)
    assert "has no permission to create it in" in problem(tmp_path / "other")


def test_a_folder_in_which_it_may_not_look_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "stat", failing(PermissionError()))
    assert "run this as the user that runs the app" in problem(tmp_path)


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
    # Nothing of click's where no command was called.
    assert type(raised.value) is ConfigurationError
    Shop(BACKLOG="memory", SPOOL_DIR=str(path))
