"""The log records that operators read, rate-limited."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_eventcollector.delivery.broker import Connection
from flask_eventcollector.delivery.entries import (
    ABANDONED,
    ENDED,
    LATE,
    NEVER_PUBLISHED,
    OVERFLOW,
    PURGED,
    Notice,
    NoticeKind,
)
from flask_eventcollector.delivery.log import INTERVAL, ThrottledLog
from flask_eventcollector.delivery.records import Kind
from flask_eventcollector.delivery.store import QuarantinedFile, StoreProblem
from flask_eventcollector.events import BrokerState, Outcome, Stats
from tests.parts import Clock, attributes, make_event

SECRET = "hunter2"
AWAY = [BrokerState.DOWN, BrokerState.BLOCKED, BrokerState.STALLED]


class Log:
    """A throttled log with a clock, and the lines that it writes."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = Clock()
        self.throttled = ThrottledLog(self.clock)
        self._caplog = caplog

    def lines(self) -> list[str]:
        """The lines since the last call."""
        lines = [record.getMessage() for record in self._caplog.records]
        # The attributes have the same values as the lines, and ids.
        assert SECRET not in str([attributes(r) for r in self._caplog.records])
        self._caplog.clear()
        return lines

    def records(self) -> list[logging.LogRecord]:
        """The records since the last call."""
        records = self._caplog.records[:]
        self._caplog.clear()
        return records

    def levels(self) -> list[str]:
        """The levels of the lines since the last call."""
        levels = [record.levelname for record in self._caplog.records]
        self._caplog.clear()
        return levels

    def broker(self, state: BrokerState, error: str = "", **counts: int) -> list[str]:
        """The lines about a broker in this state."""
        self.throttled.broker(
            Stats(
                broker=state,
                broker_error=error,
                retained=counts.get("retained", 0),
                in_flight=counts.get("in_flight", 0),
                dead=counts.get("dead", 0),
                dropped=counts.get("dropped", 0),
            )
        )
        return self.lines()

    def notices(
        self,
        kind: NoticeKind = NoticeKind.DROPPED,
        reason: str = "overflow",
        outcome: Outcome | None = None,
        *,
        queue: str = "q",
        events: int = 1,
    ) -> list[str]:
        """The lines about *number* events."""
        self.throttled.notices(
            [
                Notice(
                    kind, make_event(SECRET, queue, headers={"a": SECRET}), reason, o
                )
                for o in [outcome] * events
            ]
        )
        return self.lines()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    with caplog.at_level(logging.DEBUG, "flask_eventcollector"):
        yield Log(caplog)


def attributes_of(records: list[logging.LogRecord]) -> list[dict[str, object]]:
    """Those of each record, without their common prefix."""
    return [
        {name.removeprefix("eventcollector_"): v for name, v in attributes(r).items()}
        for r in records
    ]


# The broker


@pytest.mark.parametrize("state", AWAY)
def test_one_line_reports_that_the_broker_became_unavailable(
    log: Log, state: BrokerState
) -> None:
    assert log.broker(state, "it was lost", retained=3, in_flight=2, dead=1) == [
        f"Broker unavailable ({state}): it was lost."
        " 3 events retained, 2 in flight, 1 dead."
    ]
    assert log.broker(state, "it was lost") == []


def test_while_it_is_gone_there_is_one_line_a_minute(log: Log) -> None:
    log.broker(BrokerState.DOWN, "it was lost")
    lines = []
    for second in range(1, 181):
        log.clock.advance(1)
        lines += log.broker(BrokerState.DOWN, "it was lost", retained=second)
    assert lines == [
        f"Broker still unavailable (down) after {s} s: it was lost."
        f" {s} events retained, 0 in flight, 0 dead."
        for s in (60, 120, 180)
    ]


def test_one_line_reports_that_it_is_available_again(log: Log) -> None:
    log.broker(BrokerState.DOWN)
    log.clock.advance(90)
    assert log.broker(BrokerState.READY, retained=7) == [
        "Broker available again after 90 s. 7 events retained, 0 in flight, 0 dead."
    ]
    assert log.broker(BrokerState.READY) == []


def test_a_broker_that_was_never_gone_is_not_back(log: Log) -> None:
    assert log.broker(BrokerState.READY) == []


@pytest.mark.parametrize(
    "state", [BrokerState.IDLE, BrokerState.CONNECTING, BrokerState.CLOSED]
)
def test_starting_and_closing_a_broker_is_not_logged(
    log: Log, state: BrokerState
) -> None:
    assert log.broker(state) == []


def test_another_way_of_being_gone_is_the_same_absence(log: Log) -> None:
    log.broker(BrokerState.BLOCKED)
    log.clock.advance(1)
    assert log.broker(BrokerState.DOWN) == []
    log.clock.advance(59)
    (line,) = log.broker(BrokerState.DOWN)
    assert "still unavailable (down)" in line
    assert "after 60 s" in line


def test_connecting_again_is_not_being_back(log: Log) -> None:
    log.broker(BrokerState.DOWN)
    assert log.broker(BrokerState.CONNECTING) == []
    assert log.broker(BrokerState.DOWN) == []


def test_one_that_stalls_again_and_again_makes_one_line_a_minute(log: Log) -> None:
    lines = []
    for _ in range(50):
        lines += log.broker(BrokerState.STALLED)
        lines += log.broker(BrokerState.READY)
        log.clock.advance(1)
    assert len(lines) == 2
    assert "(stalled): it has confirmed nothing in time." in lines[0]


def test_another_outage_soon_after_is_logged_at_once(log: Log) -> None:
    log.broker(BrokerState.DOWN)
    log.broker(BrokerState.READY)
    log.clock.advance(1)
    assert len(log.broker(BrokerState.DOWN)) == 1


def test_dropped_events_are_logged_with_the_broker(log: Log) -> None:
    (line,) = log.broker(BrokerState.DOWN, dropped=4)
    assert line.endswith("0 dead; 4 dropped so far.")


def test_a_problem_of_a_reachable_broker_is_logged(log: Log) -> None:
    assert log.broker(BrokerState.READY, "no such exchange") == [
        "Broker problem: no such exchange"
    ]


def test_its_problem_is_logged_once_a_minute(log: Log) -> None:
    lines = []
    for _ in range(121):
        lines += log.broker(BrokerState.READY, "no such exchange")
        log.clock.advance(1)
    assert len(lines) == 3


def test_a_text_that_is_new_each_time_makes_no_new_problem_of_it(log: Log) -> None:
    lines = []
    for number in range(121):
        lines += log.broker(BrokerState.READY, f"no exchange 'tenant-{number}'")
        log.clock.advance(1)
    assert lines == [
        f"Broker problem: no exchange 'tenant-{number}'" for number in (0, 60, 120)
    ]


def test_a_thread_that_cannot_be_started_is_logged_once_a_minute(log: Log) -> None:
    for number in range(121):
        log.throttled.no_threads(RuntimeError(f"can't start thread {number}"))
        log.clock.advance(1)
    assert len(log.lines()) == 3


NODE = Connection(1, "rabbit-1:5672")
ELSEWHERE = Connection(2, "rabbit-2:5672")


def test_each_connection_is_told_once_with_its_node(log: Log) -> None:
    ready = Stats(broker=BrokerState.READY)
    for connection in (None, NODE, NODE, ELSEWHERE, ELSEWHERE):
        log.throttled.broker(ready, connection)

    records = log.records()

    assert [(r.levelname, r.getMessage()) for r in records] == [
        ("INFO", "Connected to the broker at rabbit-1:5672."),
        ("INFO", "Reconnected to the broker at rabbit-2:5672."),
    ]
    assert attributes_of(records) == [
        {"event": "broker_connected", "broker": NODE.node, "attempt": 1},
        {"event": "broker_reconnected", "broker": ELSEWHERE.node, "attempt": 2},
    ]


def test_an_outage_has_attributes(log: Log) -> None:
    for state in (BrokerState.DOWN, BrokerState.READY):
        log.throttled.broker(
            Stats(broker=state, broker_error="it was lost", retained=3), NODE
        )
        log.clock.advance(5)

    assert attributes_of(log.records()[1:]) == [
        {
            "event": "broker_unavailable",
            "reason": "it was lost",
            "count": 3,
            "broker": NODE.node,
        },
        {"event": "broker_available", "count": 3, "broker": NODE.node},
        {"event": "broker_problem", "reason": "it was lost", "broker": NODE.node},
    ]


def test_before_the_first_connection_no_node_is_named(log: Log) -> None:
    log.throttled.broker(Stats(broker=BrokerState.DOWN))
    (found,) = attributes_of(log.records())
    assert "broker" not in found


# The spool


def test_a_problem_of_the_spool_has_attributes(log: Log) -> None:
    log.throttled.stores([StoreProblem("writing", "the disk is full")], unspooled=0)
    log.throttled.stores([StoreProblem("reading", "it is broken")], unspooled=2)
    log.throttled.quarantined(QuarantinedFile(Path("/a"), "it is damaged", 4))
    log.throttled.left({"spool": 5, "outbox": 6})
    log.throttled.no_threads(RuntimeError("there are too many"))

    assert attributes_of(log.records()) == [
        {"event": "spool_problem", "reason": "the disk is full"},
        {"event": "spool_problem_unspooled", "reason": "it is broken", "count": 2},
        {"event": "spool_quarantined", "reason": "it is damaged", "count": 4},
        {"event": "spool_left", "count": 5},
        {"event": "outbox_left", "count": 6},
        {"event": "no_thread", "reason": "there are too many"},
    ]


def test_a_problem_of_the_spool_is_logged_once_a_minute_regardless_of_its_text(
    log: Log,
) -> None:
    for number in range(121):
        problem = StoreProblem("writing: OSError 24", f"too many files: {number}.spool")
        log.throttled.stores([problem], unspooled=2)
        log.clock.advance(1)
    assert log.lines() == [
        f"Spool problem: too many files: {number}.spool. 2 events in memory only."
        for number in (0, 60, 120)
    ]


def test_a_problem_of_the_outbox_is_told_in_its_own_words(log: Log) -> None:
    problems = [StoreProblem("rows", "no answer", store=s) for s in ("spool", "outbox")]
    for _ in range(2):
        log.throttled.stores(problems, unspooled=0)
    log.throttled.stores(problems[1:], unspooled=3)
    assert log.lines() == ["Spool problem: no answer", "Outbox problem: no answer"]


def test_what_does_not_change_while_a_process_runs_is_logged_once(log: Log) -> None:
    for _ in range(3):
        log.throttled.stores([StoreProblem("apps: old", "it is left", once=True)], 0)
        log.clock.advance(3600)
    log.throttled.stores([StoreProblem("apps: old new", "more is", once=True)], 0)
    assert log.lines() == ["Spool problem: it is left", "Spool problem: more is"]


def test_another_problem_of_the_spool_is_logged_at_once(log: Log) -> None:
    problems = [StoreProblem("writing: OSError 24", "no files")]
    log.throttled.stores(problems, 0)
    problems.append(StoreProblem("reading: OSError 24", "no files"))
    problems.append(StoreProblem("writing: OSError 28", "the disk is full"))
    log.throttled.stores(problems, 0)
    assert log.lines() == [
        "Spool problem: no files",
        "Spool problem: no files",
        "Spool problem: the disk is full",
    ]


# Events


@pytest.mark.parametrize("outcome", [Outcome.NACKED, Outcome.RETURNED])
def test_refused_events_are_logged_with_queue_and_reason(
    log: Log, outcome: Outcome
) -> None:
    assert log.notices(NoticeKind.FAILED, "no queue 'q'", outcome, events=3) == [
        f"Broker refused 3 publish attempts for q: no queue 'q' ({outcome.value});"
        " retained for retry."
    ]


def test_one_event_that_is_refused_again_and_again_is_not_logged_as_many_events(
    log: Log,
) -> None:
    refused = Notice(NoticeKind.FAILED, make_event(), "no queue", Outcome.RETURNED)
    for _ in range(4):
        log.throttled.notices([refused])
    log.throttled.log_suppressed(at_last=True)
    rest = " for q: no queue (returned); retained for retry."
    assert log.lines() == [
        f"Broker refused 1 publish attempt{rest}",
        f"Broker refused 3 publish attempts{rest}",
    ]


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        (NoticeKind.FAILED, Outcome.RETURNED),
        (NoticeKind.DEAD, Outcome.RETURNED),
        (NoticeKind.DEAD, None),
    ],
)
def test_reasons_that_differ_for_each_event_are_logged_once_a_minute(
    log: Log, kind: NoticeKind, outcome: Outcome | None
) -> None:
    lines = []
    for number in range(121):
        lines += log.notices(kind, f"it has {number} bytes", outcome)
        log.clock.advance(1)
        log.throttled.log_suppressed()
        lines += log.lines()
    # Each of the later lines has the latest words, and counts all.
    assert [re.findall(r"\d+", line) for line in lines] == [
        ["1", "0"],
        ["59", "59"],
        ["60", "119"],
    ]


@pytest.mark.parametrize(
    ("kind", "reason", "outcome", "event"),
    [
        (NoticeKind.FAILED, "full", Outcome.NACKED, "refused_nacked"),
        (NoticeKind.FAILED, "no queue", Outcome.RETURNED, "refused_returned"),
        (NoticeKind.DEAD, "too large", None, "dead"),
        (NoticeKind.DEAD, "no queue", Outcome.RETURNED, "dead"),
        (NoticeKind.DROPPED, OVERFLOW, None, "dropped_overflow"),
        (NoticeKind.DROPPED, PURGED, None, "dropped_purged"),
        (NoticeKind.DROPPED, ENDED, None, "dropped_at_end"),
        (NoticeKind.DROPPED, LATE, None, "dropped_late"),
        (NoticeKind.DISCARDED, ABANDONED, None, "discarded_abandoned"),
        (NoticeKind.DISCARDED, NEVER_PUBLISHED, None, "discarded_unpublished"),
    ],
)
def test_a_record_about_events_has_attributes_and_a_text_of_its_kind(
    log: Log, kind: NoticeKind, reason: str, outcome: Outcome | None, event: str
) -> None:
    one, other = make_event(None, "q"), make_event(None, "q")
    log.throttled.notices(
        [Notice(kind, e, reason, outcome, attempt=2) for e in (one, other)]
    )

    (record,) = log.records()

    assert record.msg == Kind[event.upper()].text
    assert attributes_of([record]) == [
        {
            "event": event,
            "queue": "q",
            "ids": f"{one.id} {other.id}",
            "count": 2,
            "reason": reason,
            "attempt": 2,
        }
    ]


def test_what_is_late_or_left_has_attributes(log: Log) -> None:
    event = make_event(None, "q", exchange="x")
    log.throttled.enqueued_late(event)
    log.throttled.unpublished([event, event], "the app context ended")

    about = {"queue": "x/q", "ids": event.id}
    assert attributes_of(log.records()) == [
        {"event": "enqueued_late", **about, "count": 1},
        {
            "event": "left_unpublished",
            **about,
            "ids": f"{event.id} {event.id}",
            "count": 2,
            "reason": "the app context ended",
        },
    ]


def test_many_events_are_counted_but_only_ten_are_named(log: Log) -> None:
    log.notices(events=3)
    log.notices(events=8)
    log.notices(events=25)
    log.throttled.log_suppressed(at_last=True)

    (found,) = attributes_of(log.records())

    assert found["count"] == 33
    assert len(str(found["ids"]).split()) == 10


def test_dead_events_are_logged_with_queue_and_reason(log: Log) -> None:
    (line,) = log.notices(NoticeKind.DEAD, "too large")
    assert line.startswith("Dead-lettered 1 event for q: too large")


def test_dropped_events_are_logged_with_queue_and_reason(log: Log) -> None:
    assert log.notices(NoticeKind.DROPPED, "overflow") == [
        "Dropped 1 event for q: overflow."
    ]


@pytest.mark.parametrize("reason", [ABANDONED, NEVER_PUBLISHED])
def test_events_that_were_not_discarded_on_purpose_are_logged(
    log: Log, reason: str
) -> None:
    assert log.notices(NoticeKind.DISCARDED, reason) == [
        f"Discarded 1 event for q: {reason}."
    ]


def test_what_is_lost_is_an_error_and_what_is_kept_a_warning(log: Log) -> None:
    log.throttled.notices(
        [
            Notice(NoticeKind.DROPPED, make_event(), "overflow"),
            Notice(NoticeKind.DEAD, make_event(), "too large"),
            Notice(NoticeKind.FAILED, make_event(), "no queue", Outcome.RETURNED),
        ]
    )
    assert log.levels() == ["ERROR", "ERROR", "WARNING"]


@pytest.mark.parametrize(
    ("kind", "reason", "outcome"),
    [
        (NoticeKind.PUBLISHED, "", None),
        (NoticeKind.DISCARDED, "the response was 500", None),
        # The lines about the broker report these.
        (NoticeKind.FAILED, "it was lost", Outcome.UNKNOWN),
        (NoticeKind.FAILED, "the broker is down", None),
    ],
)
def test_what_is_usual_has_no_line_of_its_own(
    log: Log, kind: NoticeKind, reason: str, outcome: Outcome | None
) -> None:
    assert log.notices(kind, reason, outcome) == []


def test_the_same_problem_is_logged_once_a_minute_with_the_total_count(
    log: Log,
) -> None:
    assert log.notices(events=2) == ["Dropped 2 events for q: overflow."]
    assert log.notices(events=3) == []
    assert log.notices(events=4) == []
    log.clock.advance(INTERVAL)
    log.throttled.log_suppressed()
    assert log.lines() == ["Dropped 7 events for q: overflow."]


def test_a_problem_that_is_over_is_not_logged_again(log: Log) -> None:
    log.notices()
    log.clock.advance(INTERVAL)
    log.throttled.log_suppressed()
    assert log.lines() == []
    assert log.notices() != []


def test_nothing_is_logged_again_within_the_minute(log: Log) -> None:
    log.notices()
    log.notices()
    log.clock.advance(INTERVAL - 1)
    log.throttled.log_suppressed()
    assert log.lines() == []


def test_at_the_end_everything_suppressed_is_logged(log: Log) -> None:
    log.notices()
    log.notices(events=5)
    log.throttled.log_suppressed(at_last=True)
    assert log.lines() == ["Dropped 5 events for q: overflow."]


def test_each_queue_and_each_reason_has_a_line_of_its_own(log: Log) -> None:
    lines = [
        *log.notices(queue="one"),
        *log.notices(queue="other"),
        *log.notices(queue="one", reason="purged"),
    ]
    assert len(lines) == 3


def test_events_of_several_queues_are_logged_by_queue(log: Log) -> None:
    events = [make_event(None, queue) for queue in ("one", "other", "one")]
    log.throttled.notices(
        [Notice(NoticeKind.DROPPED, event, "overflow") for event in events]
    )
    assert log.lines() == [
        "Dropped 2 events for one: overflow.",
        "Dropped 1 event for other: overflow.",
    ]


def test_an_exchange_is_named_with_the_queue(log: Log) -> None:
    event = make_event(None, "q", exchange="x")
    log.throttled.notices([Notice(NoticeKind.DROPPED, event, "overflow")])
    assert log.lines() == ["Dropped 1 event for x/q: overflow."]


def test_many_troubles_are_not_remembered_for_ever(log: Log) -> None:
    for number in range(5000):
        log.notices(queue=f"queue-{number}")
    assert len(log.throttled._suppressed) <= 1001


def test_more_queues_than_are_tracked_share_a_line(log: Log) -> None:
    lines = []
    for number in range(5000):
        lines += log.notices(queue=f"queue-{number}")
    assert len(lines) == 1001
    assert lines[-1] == "Dropped 1 event for other queues: overflow."
    log.throttled.log_suppressed(at_last=True)
    assert log.lines() == ["Dropped 3999 events for other queues: overflow."]


def test_a_handler_that_raises_harms_nothing(log: Log) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    logger, broken = logging.getLogger("flask_eventcollector"), Broken()
    logger.addHandler(broken)
    try:
        log.notices()
        log.broker(BrokerState.DOWN)
    finally:
        logger.removeHandler(broken)


def test_a_percent_sign_in_a_name_is_just_that(log: Log) -> None:
    (line,) = log.notices(queue="100%s{}")
    assert "for 100%s{}: overflow" in line


def test_a_name_neither_adds_a_line_nor_steers_a_terminal(log: Log) -> None:
    (line,) = log.notices(queue="q\nDropped 9 events\x1b[2J")
    assert r"for q\nDropped 9 events\x1b[2J: " in line


def test_no_payload_and_no_header_is_in_any_line(log: Log) -> None:
    lines: list[str] = []
    for kind in NoticeKind:
        for outcome in (None, *Outcome):
            lines += log.notices(kind, ABANDONED, outcome)
    assert lines
    assert not [line for line in lines if SECRET in line]
