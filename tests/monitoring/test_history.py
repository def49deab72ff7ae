"""What each process writes down about its events."""

from __future__ import annotations

import json
import os
import resource
import stat
import time
from pathlib import Path

import pytest

from flask_eventcollector import Outcome, Stats
from flask_eventcollector.monitoring import life
from flask_eventcollector.monitoring.history import files, records
from flask_eventcollector.monitoring.history import writer as writing
from flask_eventcollector.monitoring.history.reader import History
from flask_eventcollector.monitoring.history.records import Counts, Line
from flask_eventcollector.monitoring.history.writer import HistoryWriter
from tests.helpers import Shop, in_child, open_shop, thread, wait_until


def line(what: str, *ids: str, at: float = 1.0, **more: object) -> Line:
    fields = {"at": at, "pid": os.getpid(), "what": what, "ids": ids, **more}
    return Line.from_json(json.dumps(fields))


def written(folder: Path, *lines: Line, app: str = "shop") -> HistoryWriter:
    writer = HistoryWriter(folder, app)
    writer.begin()
    writer.write(list(lines))
    return writer


def test_a_life_is_written_down(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    with open_shop(HISTORY_DIR=str(folder), RETRY_DELAY=0.01) as shop:
        shop.faults.fail_next(Outcome.NACKED)
        event = shop.events.enqueue_event({"secret": "s3cr3t"}, "q", headers={"x": "y"})
        shop.events.publish(5)
    lines = History(folder, "shop").of(event.id)
    assert [one.what for one in lines] == [
        "enqueued",
        "handed over",
        "sent",
        "failed",
        "sent",
        "confirmed",
    ]
    failed, confirmed = lines[3], lines[-1]
    assert (failed.outcome, failed.attempt, failed.queue) == ("nacked", 1, "q")
    assert failed.reason
    assert (confirmed.attempt, confirmed.pid) == (2, os.getpid())
    assert confirmed.elapsed > 0
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "s3cr3t" not in text
    assert '"x"' not in text


@pytest.mark.parametrize(
    ("end", "what"), [("clear", "discarded"), ("purge", "dropped"), ("dead", "dead")]
)
def test_each_end_is_written_down(tmp_path: Path, end: str, what: str) -> None:
    with open_shop(HISTORY_DIR=str(tmp_path), DEAD_AFTER=0) as shop:
        if end != "clear":
            shop.faults.refuse("q", Outcome.NACKED)
        event = shop.events.enqueue_event(1, "q")
        if end == "clear":
            shop.events.clear_events_to_publish()
        else:
            shop.events.publish(5)
        if end == "purge":
            assert shop.events.purge([event.id])
    assert what in [one.what for one in History(tmp_path, "shop").of(event.id)]


def test_the_view_is_named_and_in_debug_mode_the_line(tmp_path: Path) -> None:
    with open_shop(HISTORY_DIR=str(tmp_path)) as shop:

        @shop.post("/orders/<int:number>")
        def order(number: int) -> str:
            return shop.events.enqueue_event(number, "q").id

        ids = [shop.test_client().post("/orders/7").text]
        shop.debug = True
        ids.append(shop.test_client().post("/orders/8").text)
    plain, debugged = (History(tmp_path, "shop").of(id)[0].where for id in ids)
    # The path may contain personal data, its rule does not.
    assert plain == "POST /orders/<int:number> (order)"
    assert debugged.startswith(f"{plain} at ")
    assert "test_history.py:" in debugged


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    with open_shop(HISTORY_DIR=str(folder)) as shop:
        shop.enqueue(1)
        shop.events.publish()
        wait_until(lambda: list(folder.glob("*.json")), "counts are written")
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_counts_say_which_targets_refuse_events(tmp_path: Path) -> None:
    """The other processes show it: an operator may ask any of them."""
    with open_shop(HISTORY_DIR=str(tmp_path)) as shop:
        shop.faults.refuse("q", Outcome.NACKED)
        shop.events.enqueue_event(1, "q")
        shop.events.publish()
        history = History(tmp_path, "shop")

        def books() -> list[Stats]:
            return [one.books for one in history.counts()]

        wait_until(lambda: [b.problem_targets for b in books()] == [1], "counts")
        (problem,) = books()[0].problems
        assert (problem.queue, problem.events) == ("q", 1)
        assert records.problems(history.counts()) == [str(problem)]


def test_the_counts_of_a_process_are_current_until_it_ends(tmp_path: Path) -> None:
    with open_shop(HISTORY_DIR=str(tmp_path)) as shop:
        shop.enqueue(1, 2)
        shop.events.publish()
        history = History(tmp_path, "shop")
        wait_until(
            lambda: [c.stats["confirmed"] for c in history.counts()] == [2], "counts"
        )
        assert history.counts()[0].pid == os.getpid()
    assert history.counts() == []


def test_a_killed_process_counts_no_more(tmp_path: Path) -> None:
    in_child(lambda: written(tmp_path).write_counts({"confirmed": 1}))
    history = History(tmp_path, "shop")
    (last,) = history.last_counts()
    assert last.is_current
    assert not history.is_running(last.process)
    assert history.counts() == []


def locks(folder: Path) -> list[Path]:
    return [*folder.glob("*.lock")]


def test_a_folder_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    folder, history = tmp_path / "history", History(tmp_path / "history", "shop")
    with open_shop(HISTORY_DIR=str(folder)) as shop:
        shop.events.enqueue_event(1, "q")
        wait_until(lambda: locks(folder), "the process shows that it lives")
        folder.rename(tmp_path / "away")
        wait_until(lambda: locks(folder), "it shows so again")
        process = locks(folder)[0].stem.removeprefix("shop@")
        assert in_child(lambda: history.is_running(process))
    assert not in_child(lambda: history.is_running(process))


def test_those_who_look_at_the_same_time_do_not_take_each_other_for_the_process(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shop@1@a.lock"
    path.touch()
    descriptor = life.locked(path, is_shared=True)
    assert not in_child(lambda: life.is_alive(path))
    os.close(descriptor)


def test_a_process_lives_though_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path).write_counts({"confirmed": 1})
    history = History(tmp_path, "shop")
    monkeypatch.setattr(records, "SILENT_AFTER", 0.0)
    (counts,) = history.counts()
    assert records.problems([counts]) == [
        f"process {os.getpid()} has said nothing for 0 s: it is stopped, hangs, or"
        " can't write its counts"
    ]


def test_a_process_whose_clock_was_set_back_is_not_silent_for_long(
    tmp_path: Path,
) -> None:
    for ahead, is_current in [(5.0, True), (3600.0, False)]:
        counts = Counts(1, time.time() + ahead, {})
        assert counts.is_current is is_current
    assert "for 0 s" in records.silence_of(counts)


def test_the_files_of_a_process_are_known_by_its_id_and_more(tmp_path: Path) -> None:
    """Another process may have its id later, or in another container."""
    first, second = written(tmp_path, line("sent", "a")), written(tmp_path)
    second.write([line("confirmed", "a", at=2.0)])
    one, other = History(tmp_path, "shop").of("a")
    assert one.process != other.process
    first.end()
    history = History(tmp_path, "shop")
    assert [history.is_running(found.process) for found in (one, other)] == [
        False,
        True,
    ]


def test_a_process_has_two_files_of_limited_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MOST_BYTES", 1000)
    writer = written(tmp_path)
    for place in range(100):
        writer.write([line("sent", f"id-{place}", at=place)])
    sizes = [path.stat().st_size for path in tmp_path.glob("*.jsonl")]
    assert len(sizes) <= 2
    assert max(sizes) < 1200
    lines = History(tmp_path, "shop").lines()
    assert lines[-1].ids == ["id-99"]
    assert [one.at for one in lines] == sorted(one.at for one in lines)


def test_files_of_yesterday_are_removed(tmp_path: Path) -> None:
    writer = written(tmp_path, line("sent", "old"))
    others = ["notes.txt", "shop@1@2.txt", "shop@0@1@2.spool.lock", "a@1@2.spool"]
    for name in others:
        (tmp_path / name).touch()
    yesterday = time.time() - writing.KEPT_FOR - 1
    for path in tmp_path.iterdir():
        os.utime(path, (yesterday, yesterday))
    written(tmp_path, line("sent", "new"))
    found = {path.name for path in tmp_path.iterdir()}
    assert found >= set(others)
    assert [one.ids for one in History(tmp_path, "shop").lines()] == [["new"]]
    assert len([*tmp_path.glob("shop@*@????????.lock")]) == 2
    writer.end()


def test_apps_do_not_read_each_other(tmp_path: Path) -> None:
    for app in ("shop", "shop2", "*", "shop/a"):
        written(tmp_path, line("sent", f"of {app}"), app=app)
    for app in ("shop", "shop2", "*", "shop/a"):
        (found,) = History(tmp_path, app).lines()
        assert found.ids == [f"of {app}"]


def damage(folder: Path, *texts: str) -> Path:
    """Write *texts* into the one file that is there; returns it."""
    [path] = folder.glob("*.jsonl")
    with path.open("a", encoding="latin-1") as file:
        file.writelines(f"{text}\n" for text in texts)
    return path


#: What may stand where a line should be; some of it has the id of an event, too.
DAMAGED = [
    "",
    "{",
    "[]",
    "7",
    "\xff",
    "[" * 100_000,
    '{"at": 1}',
    '{"what": "sent"}',
    '{"at": "1", "what": "sent", "ids": ["a"]}',
    '{"at": 1e300, "what": "sent", "ids": ["a"]}',
    '{"at": NaN, "what": "sent", "ids": ["a"]}',
    '{"at": 1, "what": "sent", "ids": "a"}',
    '{"at": 1, "what": "sent", "ids": ["a", 7]}',
    '{"at": 1, "what": ["sent"], "ids": ["a"]}',
    '{"at": 1, "what": "sent", "ids": ["a"], "queue": {}}',
    '{"at": 1, "what": "sent", "ids": ["a"], "elapsed": "long"}',
]


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:70])
def test_what_is_no_line_is_left_out_and_said(tmp_path: Path, text: str) -> None:
    written(tmp_path, line("sent", "a"))
    path = damage(tmp_path, text)
    history = History(tmp_path, "shop")
    for _ in range(2):
        assert [one.ids for one in history.lines()] == [["a"]]
        assert history.problems == {path: "1 line is damaged, so left out"}


def test_what_a_newer_version_writes_is_read(tmp_path: Path) -> None:
    written(tmp_path, line("sent", "a"))
    damage(tmp_path, '{"at": 2, "what": "painted", "ids": ["a"], "colour": "red"}')
    history = History(tmp_path, "shop")
    assert [one.what for one in history.of("a")] == ["sent", "painted"]
    assert history.problems == {}


def test_a_line_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    written(tmp_path, line("sent", "a"))
    [path] = tmp_path.glob("*.jsonl")
    with path.open("a") as file:
        file.write('{"at": 1')
    history = History(tmp_path, "shop")
    assert len(history.lines()) == 1
    assert history.problems == {}


def test_damaged_lines_are_counted_while_they_are_followed(tmp_path: Path) -> None:
    writer = written(tmp_path, line("sent", "a"))
    path = damage(tmp_path, "{", "{")
    history = History(tmp_path, "shop")
    follower = history.follow()
    assert history.problems == {path: "2 lines are damaged, so left out"}
    damage(tmp_path, "{")
    writer.write([line("sent", "b")])
    assert [one.ids for one in follower.new()] == [["b"]]
    assert follower.new() == []
    assert history.problems == {path: "3 lines are damaged, so left out"}


@pytest.mark.parametrize("name", [files.LINES, files.COUNTS])
def test_a_file_that_can_not_be_read_is_said(tmp_path: Path, name: str) -> None:
    """Even root can't read a folder as if it were a file."""
    path = tmp_path / f"shop@1@00000000{name}"
    path.mkdir()
    history = History(tmp_path, "shop")
    assert history.lines() + history.counts() == []
    assert history.follow().new() == []
    assert history.problems == {path: "Is a directory: try again"}


@pytest.mark.parametrize("is_written", [False, True])
def test_a_pipe_does_not_block(tmp_path: Path, is_written: bool) -> None:
    """Somebody has put it there: the folder belongs to all."""
    paths = [tmp_path / f"shop@1@0{end}" for end in (".jsonl", ".json")]
    writers = []
    for path in paths:
        os.mkfifo(path)
        if is_written:
            writers.append(os.open(path, os.O_RDWR))
    history, read = History(tmp_path, "shop"), list[object]()

    def read_all() -> None:
        read.append([*history.lines(), *history.counts(), *history.follow().new()])

    with thread(read_all):
        wait_until(lambda: read == [[]], "nothing is read")
    for writer in writers:
        os.close(writer)


def test_on_a_full_disk_nothing_is_damaged(tmp_path: Path) -> None:
    """What fits is kept, also what is written next."""

    def write() -> None:
        writer = written(tmp_path, line("sent", "a"))
        writer.write_counts({"enqueued": 1})
        [path] = tmp_path.glob("*.jsonl")
        room = path.stat().st_size + 200
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="No space"):
            writer.write([line("sent", f"b{n}", at=2.0) for n in range(100)])
        with pytest.raises(OSError, match="No space"):
            writer.write_counts({"enqueued": 2, "broker_error": "x" * 1000})
        writer.write([line("sent", "c", at=3.0)])

    in_child(write)
    history = History(tmp_path, "shop")
    assert [one.ids for one in history.lines()] == [["a"], ["c"]]
    assert [one.stats for one in history.last_counts()] == [{"enqueued": 1}]
    assert history.problems == {}


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "other").write_text(line("sent", "a").as_json() + "\n")
    link = tmp_path / "shop@1@0.jsonl"
    link.symlink_to(tmp_path / "other")
    history = History(tmp_path, "shop")
    assert history.lines() == []
    assert [*history.problems] == [link]


def test_the_cure_for_another_users_file_is_said(tmp_path: Path) -> None:
    def read() -> None:
        raise PermissionError(13, "Permission denied")

    history = History(tmp_path, "shop")
    with history.reading(tmp_path / "one"):
        read()
    (why,) = history.problems.values()
    assert why == "Permission denied: run this as the user that runs the app"


COUNTS = {"pid": 1, "at": 1.0, "stats": {"enqueued": 1}}


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        COUNTS | {"at": "soon"},
        COUNTS | {"stats": []},
        COUNTS | {"stats": {"enqueued": "many"}},
        COUNTS | {"stats": {"broker": []}},
        COUNTS | {"stats": {"broker_error": 7}},
        COUNTS | {"stats": {"problems": 7}},
        COUNTS | {"stats": {"problems": [{"queue": "q"}]}},
    ],
    ids=json.dumps,
)
def test_damaged_counts_are_left_out_and_said(tmp_path: Path, damaged: object) -> None:
    written(tmp_path).write_counts({"confirmed": 1})
    path = tmp_path / "shop@1@00000000.json"
    life.show_life(path.with_suffix(".lock"))
    path.write_text(json.dumps(damaged))
    history = History(tmp_path, "shop")
    assert [one.pid for one in history.counts()] == [os.getpid()]
    assert history.problems == {path: "damaged, so its process is left out"}
    path.write_text(json.dumps(COUNTS | {"at": time.time()}))
    assert [one.pid for one in history.counts()] == [1, os.getpid()]
    assert history.problems == {}


def test_the_damaged_counts_of_an_ended_process_are_nobodys_problem(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shop@1@00000000.json"
    path.write_text("{")
    history = History(tmp_path, "shop")
    assert history.counts() == []
    assert history.problems == {}


def test_the_lines_of_a_process_stay_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock may be set back, and its file renamed."""
    monkeypatch.setattr(writing, "MOST_BYTES", 1)
    writer = written(tmp_path, line("enqueued", "a", at=100.0))
    monkeypatch.setattr(writing, "MOST_BYTES", 1000)
    writer.write([line("sent", "a", at=50.0), line("confirmed", "a", at=50.1)])
    written(tmp_path, line("adopted", "a", at=200.0))
    found = [one.what for one in History(tmp_path, "shop").of("a")]
    assert found == ["enqueued", "sent", "confirmed", "adopted"]


def test_lines_are_read_while_their_file_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = written(tmp_path, line("sent", "a"))
    read, renamed = files.read, list[Path]()

    def rename_then(path: Path) -> tuple[int, bytes]:
        try:
            return read(path)
        finally:
            if not renamed:
                renamed.append(path.replace(f"{path.parent}/{path.stem}.old.jsonl"))
                writer.write([line("sent", "b", at=2.0)])

    monkeypatch.setattr(files, "read", rename_then)
    assert [one.ids for one in History(tmp_path, "shop").lines()] == [["a"]]
    assert [one.ids for one in History(tmp_path, "shop").lines()] == [["a"], ["b"]]


def test_only_new_lines_are_followed(tmp_path: Path) -> None:
    writer = written(tmp_path, line("sent", "before"))
    follower = History(tmp_path, "shop").follow()
    assert follower.earlier == []
    assert follower.new() == []
    writer.write([line("sent", "a", at=2.0)])
    written(tmp_path, line("sent", "b", at=1.5))
    assert [one.ids for one in follower.new()] == [["b"], ["a"]]
    [path] = [p for p in tmp_path.glob("*.jsonl") if "before" in p.read_text()]
    with path.open("a") as file:
        file.write('{"at": 3.0, "what": "half')
    assert follower.new() == []
    with path.open("a") as file:
        file.write('"}\n')
    assert [one.what for one in follower.new()] == ["half"]


def test_a_new_file_in_the_place_of_a_removed_one_is_followed_from_its_begin(
    tmp_path: Path,
) -> None:
    writer = written(tmp_path, line("sent", "before"), line("sent", "before"))
    follower = History(tmp_path, "shop").follow()
    [path] = tmp_path.glob("*.jsonl")
    # It keeps its inode, which file systems give to the next file, too.
    os.truncate(path, 0)
    writer.write([line("sent", "a")])
    assert [one.ids for one in follower.new()] == [["a"]]
    assert follower.new() == []


def test_what_has_happened_since_a_time_comes_first(tmp_path: Path) -> None:
    written(tmp_path, line("sent", "a", at=1.0), line("sent", "b", at=2.0))
    follower = History(tmp_path, "shop").follow(1.5)
    assert [one.ids for one in follower.earlier] == [["b"]]
    assert follower.new() == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Another user may have put it there, if the folder is shared."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "history"
    writer = HistoryWriter(folder, "shop")
    writer.begin()
    writer._path(files.LINES).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        writer.write([line("sent", "a")])
    assert victim.read_text() == "precious"


def test_a_folder_that_can_not_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    shop = Shop(HISTORY_DIR=str(blocked / "history"))
    shop.enqueue(1)
    shop.events.publish()
    wait_until(lambda: "Observer failed: HistoryObserver" in caplog.text, "a record")
    assert shop.sent() == [1]
    shop.events.close(1)


def test_the_store_that_can_not_be_used_is_named() -> None:
    stats = Stats(spool_error="disk full", outbox_error="no such table")
    counts = records.Counts(1, time.time(), stats.as_dict())
    assert records.problems([counts]) == [
        "the spool: disk full",
        "the outbox: no such table",
    ]
