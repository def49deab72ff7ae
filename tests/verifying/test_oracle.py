"""The oracle finds lost, duplicated and unexpected events."""

from __future__ import annotations

import json
from pathlib import Path

import pika

from flask_eventcollector.verifying import side_file
from flask_eventcollector.verifying.oracle import Copy, check, copy_of


def message(key: str, id: str = "1", *, marked: bool = False) -> Copy:
    headers = {"x-possible-duplicate": True} if marked else None
    properties = pika.BasicProperties(message_id=id, headers=headers)
    return copy_of(properties, json.dumps({"key": key}).encode())


def test_what_arrived_once_is_fine() -> None:
    found = check({"a"}, {"a"}, [message("a")])

    assert found.attempted == found.acknowledged == {"a"}
    wrong = (found.lost, found.duplicated, found.unexpected, found.unmarked)
    assert not any(wrong)


def test_what_was_acknowledged_and_did_not_arrive_is_lost() -> None:
    assert check({"a", "b"}, {"a", "b"}, [message("a")]).lost == {"b"}


def test_what_was_only_attempted_may_be_missing() -> None:
    assert not check({"a"}, set(), []).lost


def test_what_arrived_unacknowledged_is_recovered() -> None:
    assert check({"a"}, set(), [message("a")]).recovered == {"a"}


def test_what_was_not_attempted_is_unexpected() -> None:
    assert check(set(), set(), [message("a")]).unexpected == {"a"}


def test_a_marked_second_copy_is_a_duplicate() -> None:
    found = check({"a"}, {"a"}, [message("a"), message("a", marked=True)])

    assert found.duplicated == {"a"}
    assert not found.unmarked


def test_a_second_copy_without_a_mark_is_unmarked() -> None:
    assert check({"a"}, {"a"}, [message("a"), message("a")]).unmarked == {"a"}


def test_a_second_copy_with_another_id_is_unmarked() -> None:
    copies = [message("a"), message("a", "2", marked=True)]

    assert check({"a"}, {"a"}, copies).unmarked == {"a"}


def test_the_side_file_lists_attempts_except_for_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "side-file"
    side_file.note(file, "a", "7")
    side_file.note(file, "b", "7")
    with file.open("a") as torn:
        torn.write("c 8")

    assert side_file.read(file) == {"a": "7", "b": "7"}
