"""``flask events quarantine``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flask_eventcollector.stores.spool.admin import quarantined as admin
from tests.cli.test_file_states import damaged, foreign, quarantined, run
from tests.spool.support import failing


@pytest.fixture
def path(folder: Path) -> Path:
    """A file that 'flush' has quarantined; its intact events were sent."""
    found = damaged(folder)
    run(folder, "flush", "--timeout", "10")
    return found.with_name(f"{found.name}.quarantined")


def test_the_list_shows_reason_events_and_advice(folder: Path, path: Path) -> None:
    result = run(folder, "quarantine", "list")

    assert result.exit_code == 0
    assert f"{path}: 2 readable events, 0 s old" in result.stdout
    assert "its first page is corrupt" in result.stdout
    assert "flask events quarantine remove NAME" in result.stdout
    [file] = json.loads(run(folder, "quarantine", "list", "--json").stdout)
    assert (file["path"], file["readable"]) == (str(path), 2)
    assert "quarantine list" in run(folder, "status").stderr


def test_damage_behind_the_first_page_and_foreign_files_are_told_apart(
    folder: Path,
) -> None:
    quarantined(folder)
    assert "a page or a row is damaged" in run(folder, "quarantine", "list").stdout
    other = foreign(folder)
    run(folder, "flush", "--timeout", "10")
    shown = json.loads(run(folder, "quarantine", "list", "--json").stdout)
    reasons = {file["path"]: file["reason"] for file in shown}
    reason = reasons[f"{other}.quarantined"]
    assert "belongs to the user" in reason or "no read and write" in reason


def test_no_file_no_advice(folder: Path) -> None:
    assert run(folder, "quarantine", "list").stdout == "No files are quarantined.\n"


def test_what_can_t_be_read_has_no_count(
    folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "intact_rows", failing(OSError("I/O error")))
    assert "events that can't be read" in run(folder, "quarantine", "list").stdout
    monkeypatch.undo()
    path.unlink()
    path.symlink_to("/dev/null")
    assert "not a regular file" in run(folder, "quarantine", "list").stdout


def test_a_file_that_disappears_is_not_listed(
    folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "lstat", failing(FileNotFoundError()))
    assert "No files" in run(folder, "quarantine", "list").stdout


def test_nothing_is_removed_without_a_yes(folder: Path, path: Path) -> None:
    result = run(folder, "quarantine", "remove", "--all")

    assert result.exit_code == 1
    assert f"{path}: 2 readable events" in result.stderr
    assert "Delete 1 file for good?" in result.stderr
    assert path.exists()


@pytest.mark.parametrize("by", ["name", "path", "--all"])
def test_what_is_removed_is_gone(folder: Path, path: Path, by: str) -> None:
    argument = {"name": path.name, "path": str(path), "--all": "--all"}[by]

    result = run(folder, "quarantine", "remove", argument, "--yes")

    assert (result.exit_code, result.stdout) == (0, "Removed 1 file.\n")
    assert not list(folder.glob("*.quarantined*"))
    again = run(folder, "quarantine", "remove", "--all", "--yes", "--json")
    assert again.exit_code == 0


def test_an_unknown_name_removes_nothing(folder: Path, path: Path) -> None:
    result = run(folder, "quarantine", "remove", path.name, "nothing", "--yes")
    assert result.exit_code == 1
    assert "No such quarantined file: nothing." in result.stderr
    assert path.exists()
    assert run(folder, "quarantine", "remove").exit_code == 2


def test_what_could_not_be_removed_is_said(
    folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "unlink", failing(PermissionError(13, "Permission denied")))
    result = run(folder, "quarantine", "remove", "--all", "--yes", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["unreadable"][0]["path"] == str(path)
    assert "Not removed: " in result.stderr
