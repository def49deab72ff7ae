"""What the first page says."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector import Outcome, Stats
from flask_eventcollector.dashboard import chart, overview
from flask_eventcollector.dashboard.places import Places
from flask_eventcollector.monitoring.columns import COLUMNS
from flask_eventcollector.monitoring.history.reader import History
from flask_eventcollector.monitoring.history.writer import HistoryWriter
from flask_eventcollector.monitoring.samples import Sample, Samples
from flask_eventcollector.stores.sums import TargetSum
from tests.helpers import wait_until

from .support import Desk, open_desk, readable


def test_an_app_without_events_is_well(desk: Desk) -> None:
    page = desk.shown()
    assert "All is well" in page
    assert "Broker idle" in page
    assert "Nothing waits, and nothing is dead." in page
    assert f"of process {os.getpid()} alone" in page
    assert "EVENTCOLLECTOR_HISTORY_DIR" in page


def test_an_app_without_a_broker_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_desk() as desk:
        desk.shop.testing = False
        assert "Broker idle" in desk.shown()
        assert "Nothing waits" in desk.shown("events")


def test_looking_starts_nothing_and_publishes_nothing(desk: Desk) -> None:
    before = {*threading.enumerate()}
    for page in ("", "live", "events", "event?id=1"):
        desk.get(page)
    assert {*threading.enumerate()} <= before
    assert desk.shop.books() == {}


def test_looking_does_not_ask_the_broker(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.leave(0)
    desk.shop.faults.go_down()
    desk.leave(1)
    asked: list[str] = []
    with desk.shop.app_context():
        monkeypatch.setattr(desk.shop.broker, "wake", lambda: asked.append("wake"))
    for page in ("", "live", "events", "event?id=1"):
        desk.get(page)
    assert asked == []


def test_the_books_are_those_of_stats(desk: Desk) -> None:
    for number in range(3):
        desk.leave(number)
    desk.die()
    page = desk.shown()
    for text in ("Enqueued 4", "Confirmed 3", "Waiting 0", "Dead 1", "Dropped 0"):
        assert text in page
    assert "dead 1 dead event: retry what is dead, or purge it" in page


def test_a_target_says_why_its_events_wait() -> None:
    with open_desk(waits=True) as desk:
        desk.shop.faults.refuse("orders", Outcome.NACKED)
        desk.leave(1, "orders")
        desk.leave(2, "orders")
        page, listed = desk.shown(), desk.shown("events")
    assert re.search(r"Reason orders 2 0 \d+ s 1 in ", page)
    assert "the queue 'orders' refused it" in page
    assert "behind an event that was refused: the queue 'orders' refused it" in listed


def test_an_outage_is_the_reason_if_there_is_no_other() -> None:
    with open_desk(waits=True) as desk:
        desk.leave(0)
        desk.shop.faults.go_down("connection refused")
        desk.leave(1)
        page = desk.shown()
    assert "Broker down" in page
    assert "the broker is down: connection refused" in page
    assert "Waiting 1" in page


def test_the_worst_check_decides(desk: Desk) -> None:
    with open_desk(waits=True, MAX_EVENTS=2) as desk:
        desk.shop.faults.go_down()
        desk.leave(1)
        desk.leave(2)
        page = desk.shown()
    assert "Events are being lost or refused" in page
    assert "EVENTCOLLECTOR_MAX_EVENTS" in page


def test_the_script_gets_the_parts_of_the_page(desk: Desk) -> None:
    desk.die()
    answer = json.loads(desk.page("live"))
    assert (answer["health"], answer["waiting"]) == ("degraded", 0)
    page = desk.page()
    for name, part in answer["parts"].items():
        assert f'data-part="{name}"' in page
        assert readable(f"<body>{part}") in readable(page)


def test_while_one_is_made_others_see_the_last_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many browsers as are open would ask a database that hangs."""
    desk.page()
    asked: list[int] = []

    def slow(places: Places) -> list[TargetSum]:
        asked.append(len(asked))
        if asked == [0]:
            # Another request, while this one has not ended.
            desk.page()
        return []

    monkeypatch.setattr(Places, "sums_by_target", slow)
    desk.page()
    assert asked == [0]
    desk.page()
    assert asked == [0, 1]


def test_an_overview_is_kept_for_a_moment(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "_SHOWN_FOR", 3600.0)
    assert "Dead 0" in desk.shown()
    desk.die()
    assert "Dead 0" in desk.shown()


# All processes of the machine.


def other(folder: Path, pid: int, **books: Any) -> None:
    """The counts of another process."""
    writer = HistoryWriter(folder, "shop")
    writer.begin()
    writer.pid = pid
    writer.write_counts(Stats(**books).as_dict() | {"from a later version": 1})


@pytest.fixture
def whole(tmp_path: Path) -> Any:
    with open_desk(waits=True, HISTORY_DIR=str(tmp_path)) as desk:
        yield desk


def test_the_books_are_those_of_all_processes(whole: Desk, tmp_path: Path) -> None:
    from flask_eventcollector import BrokerState, TargetProblem

    whole.leave(0)
    problem = TargetProblem("bills", "", 7, "the queue is full", 3, 1.0, 9.0)
    other(tmp_path, 1, enqueued=20, confirmed=13, retained=7, problems=(problem,))
    other(tmp_path, 2, broker=BrokerState.DOWN, broker_error="no route to host")
    page = whole.shown()
    assert "Books of 3 processes on this machine" in page
    for text in ("Enqueued 21", "Confirmed 14", "Waiting 7", "Broker down"):
        assert text in page
    # Each is told in which process it is so.
    assert "no route to host" in page
    assert "(in 1 of 3 processes)" in page
    assert "bills 7 0 - 3 in 9 s the queue is full" in page
    assert "1 20 13 0 0 0 0 7 0 idle" in page
    assert "2 0 0 0 0 0 0 0 0 down" in page


def test_what_is_enqueued_and_adopted_is_the_sum_of_the_rest(
    whole: Desk, tmp_path: Path
) -> None:
    books: dict[str, int] = {"enqueued": 70, "adopted": 8, "confirmed": 20}
    books |= {"unrouted": 9, "outboxed": 10, "discarded": 11, "dropped": 12}
    other(tmp_path, 1, **books, collected=3, delayed=4, in_flight=5, retained=3, dead=1)
    page = whole.page()
    tiles = {
        name: int(value)
        for name, value in re.findall(r"<dt>([^<]*)</dt><dd>(\d+)</dd>", page)
    }
    assert tiles.pop("Enqueued") + tiles.pop("Adopted") == sum(tiles.values())
    assert set(tiles) >= {"Unrouted", "Outboxed", "Collected", "Delayed"}
    columns = re.search(r"<th[^>]*>Process</th>(.*?)</tr>", page, re.DOTALL)
    assert columns is not None
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", columns[1])
    assert heads == [*COLUMNS.values(), "Broker"]


def test_what_most_apps_never_need_is_left_out(whole: Desk) -> None:
    page = whole.page()
    for head in ("Adopted", "Unrouted", "Outboxed", "Delayed"):
        assert head not in page


def test_an_app_that_refuses_all_events_is_not_well() -> None:
    with open_desk(None, BROKER_URL=None, TESTING_BROKER=True) as desk:
        desk.shop.testing = False
        page = desk.shown()
    assert "Events are being lost or refused" in page
    assert "EVENTCOLLECTOR_BROKER_URL is not set" in page
    assert "All is well" not in page


def test_counts_that_can_not_be_read_are_told(whole: Desk, tmp_path: Path) -> None:
    other(tmp_path, 1, enqueued=20)
    (path,) = tmp_path.glob("*@*.json")
    text = path.read_text()
    path.write_text("{}")
    page = whole.shown()
    assert "Not everything can be read" in page
    assert "damaged, so its process is left out" in page
    assert "Needs attention" in page
    path.write_text(text)
    assert "All is well" in whole.shown()


def test_a_process_that_is_silent_is_told(
    whole: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 1.0)
        other(tmp_path, 1, enqueued=20)
    page = whole.shown()
    assert "Needs attention" in page
    assert "process 1 has said nothing for" in page
    assert "(in 1 of 2 processes)" in page


def test_a_process_that_is_idle_does_not_hide_that_the_broker_is_ready(
    whole: Desk, tmp_path: Path
) -> None:
    whole.leave(0)
    other(tmp_path, 1)
    assert "Broker ready" in whole.shown()


def test_a_folder_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    with open_desk(HISTORY_DIR=str(tmp_path / "later")) as desk:
        assert "Books of 1 process on this machine" in desk.shown()


# Over time.


def test_samples_are_taken_while_events_come(desk: Desk) -> None:
    (samples,) = _samples(desk)
    desk.leave(1)
    wait_until(lambda: _kept(samples), "the observer takes one")
    assert _kept(samples)[0].confirmed <= 1


def _samples(desk: Desk) -> list[Samples]:
    from flask_eventcollector.app_state import state_of

    state = state_of(desk.shop)
    assert state is not None
    return [one for one in state.observers if isinstance(one, Samples)]


def _kept(samples: Samples) -> list[Sample]:
    return [*samples._samples]


def _look(samples: Samples, stats: Stats) -> list[Sample]:
    samples.observe([], stats)
    return _kept(samples)


def test_a_sample_is_taken_each_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, now = Samples(None), [1000.0]
    _clock(monkeypatch, lambda: now[0])
    _look(samples, Stats())
    now[0] += 4.9
    assert len(_look(samples, Stats())) == 1
    now[0] += 0.2
    assert len(_look(samples, Stats(retained=2, in_flight=1, delayed=4, dead=5))) == 2
    assert _look(samples, Stats())[-1] == Sample(now[0], 3, 5, 0)
    for _ in range(800):
        now[0] += 5
        _look(samples, Stats())
    assert len(_look(samples, Stats())) == 720


def test_a_forked_child_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from flask_eventcollector.monitoring import samples as module

    samples = Samples(None)
    _look(samples, Stats())
    monkeypatch.setattr(module, "current_process", lambda: (1, 1))
    assert len(_look(samples, Stats(dead=1))) == 1
    assert _look(samples, Stats())[0].dead == 1


def test_for_a_page_and_its_sample_the_history_is_read_once(
    whole: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counts(history: History) -> list[Any]:
        read.append(history.folder)
        return []

    monkeypatch.setattr(History, "counts", counts)
    whole.page()
    assert len(read) == 1
    (samples,) = _samples(whole)
    assert len(_kept(samples)) == 1


def test_samples_are_of_all_processes(tmp_path: Path) -> None:
    other(tmp_path, 1, retained=5, confirmed=3)
    samples = Samples(History(tmp_path, "shop"))
    assert _look(samples, Stats(retained=2))[0][1:] == (7, 0, 3)


def _clock(monkeypatch: pytest.MonkeyPatch, now: Callable[[], float]) -> None:
    monkeypatch.setattr(time, "time", now)


def test_a_picture_is_drawn() -> None:
    samples = [Sample(0, 0, 0, 0), Sample(60, 4, 1, 120), Sample(120, 2, 1, 120)]
    waiting, confirmed = chart.charts(samples[:2], samples[2])
    assert (waiting.highest, waiting.span) == (4, 120)
    assert waiting.lines[0].path == "M0.0 100.0L300.0 0.0L600.0 50.0"
    assert waiting.lines[0].area == f"{waiting.lines[0].path}L600.0 100L0.0 100Z"
    assert [line.now for line in waiting.lines] == [2, 1]
    assert confirmed.highest == 2
    # Now is too short after the last sample to tell a rate.
    assert confirmed.lines[0].now == 2


def test_a_picture_spans_what_is_known() -> None:
    samples = [Sample(at, 0, 0, 0) for at in range(0, 3600, 5)]
    now = samples[-1]
    spans = [chart.charts(samples[-n:], now)[0].span for n in (1, 25, 100, 300, 720)]
    assert spans == [120, 120, 600, 1800, 3600]
    # What is older is not drawn.
    late = chart.charts(samples, Sample(5000, 0, 0, 0))[0]
    assert late.lines[0].path.startswith("M0.0 ")
    assert late.lines[0].path.count("L") < 500


def test_without_samples_there_is_no_picture() -> None:
    for one in chart.charts([], Sample(10, 3, 1, 1)):
        assert one.lines[0].path == ""
    waiting, _ = chart.charts([], Sample(10, 3, 1, 1))
    assert [line.now for line in waiting.lines] == [3, 1]


def test_counts_that_shrink_are_no_negative_rate() -> None:
    samples = [Sample(0, 0, 0, 100), Sample(5, 0, 0, 10)]
    assert chart.charts(samples, samples[1])[1].highest == 0
