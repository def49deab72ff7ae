"""The backlog on disk: unconfirmed events outlive the process."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.delivery import forks, periodic_worker
from flask_eventcollector.delivery.delivery import Delivery
from flask_eventcollector.delivery.entries import Settlement
from flask_eventcollector.delivery.ledger import Ledger
from flask_eventcollector.events import BrokerState, Outcome, Properties, Stats
from flask_eventcollector.messages.amqp_fields import POSSIBLE_DUPLICATE
from flask_eventcollector.stores import circuit_breaker
from flask_eventcollector.stores.spool import adopter, control, orphan, writer
from flask_eventcollector.stores.spool.control import (
    ControlRequest,
    is_pending,
    submit,
    withdraw,
)
from flask_eventcollector.stores.spool.folder import Claim
from flask_eventcollector.stores.spool.journal import Journal
from flask_eventcollector.testing import FaultInjector
from tests.helpers import DEADLINE, in_child, pass_time, thread, wait_until
from tests.parts import (
    ManualBroker,
    SignalLog,
    books,
    collect,
    delivering,
    make_delivery,
    make_event,
)
from tests.spool.support import dead_rows, failing, leave, rows, spooling, stored


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time between runs."""
    for module in (adopter, writer):
        monkeypatch.setattr(module, "TICK", 0.05)


@pytest.fixture
def signal_log() -> SignalLog:
    return SignalLog()


@pytest.fixture
def broker() -> ManualBroker:
    return ManualBroker()


@pytest.fixture
def away() -> ManualBroker:
    return ManualBroker(BrokerState.DOWN)


Deliver = Callable[..., Delivery]


@pytest.fixture
def deliver(folder: Path, signal_log: SignalLog) -> Iterator[Deliver]:
    begun: list[Delivery] = []

    def deliver(broker: Any, *, confirm_timeout: float = 0.1, **more: Any) -> Delivery:
        about_spool = {k: more.pop(k) for k in ("page", "full_sync") if k in more}
        delivery = make_delivery(
            broker,
            signal_log,
            confirm_timeout=confirm_timeout,
            backlog=spooling(folder, patience=confirm_timeout, **about_spool),
            durable=True,
            **more,
        )
        begun.append(delivery)
        return delivery

    yield deliver
    for delivery in begun:
        delivery.close(1)


def eventually(delivery: Delivery, **expected: Any) -> None:
    """Wait for these figures."""

    def shows() -> bool:
        stats = delivery.stats()
        return all(getattr(stats, k) == v for k, v in expected.items())

    wait_until(shows, f"{expected}, not {delivery.stats()}")


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir()) if folder.exists() else []


def spool_threads() -> list[threading.Thread]:
    names = ("eventcollector-spool-test", "eventcollector-adopter-test")
    return [t for t in threading.enumerate() if t.name in names]


# Writing


def test_while_the_broker_confirms_in_time_nothing_is_written(
    deliver: Deliver, folder: Path
) -> None:
    delivery = deliver(MemoryBroker())
    assert delivery.publish(collect(delivery, 1, 2)).confirmed == 2
    delivery.close(1)
    assert not folder.exists()


def test_what_is_not_confirmed_in_time_is_on_disk_when_publish_returns(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    delivery = deliver(broker)
    assert delivery.publish(collect(delivery, 1, 2)).in_flight == 2
    assert stored(folder) == [1, 2]
    assert delivery.stats().spooled == 2


def test_while_the_broker_is_unreachable_it_is_on_disk_at_once(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    delivery = deliver(away, confirm_timeout=DEADLINE)
    with thread(lambda: delivery.publish(collect(delivery, 1))) as publishing:
        publishing.join(DEADLINE / 2)
        assert not publishing.is_alive()
    assert stored(folder) == [1]


def test_without_a_wait_for_confirms_it_is_on_disk_before_it_is_sent(
    deliver: Deliver, folder: Path
) -> None:
    seen: list[Any] = []
    caller = threading.current_thread()

    class Watched(ManualBroker):
        def wake(self) -> None:
            # The flusher may do so once the disk has taken a second.
            if threading.current_thread() is caller:
                seen.append(stored(folder))

    delivery = deliver(Watched(), confirm_timeout=0)
    delivery.publish(collect(delivery, 1))
    assert seen[0] == [1]


def test_what_was_handed_over_without_waiting_is_written_soon(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    delivery = deliver(away)
    delivery.hand_over(collect(delivery, 1))
    eventually(delivery, spooled=1)
    assert stored(folder) == [1]


def test_a_long_wait_does_not_keep_an_event_off_the_disk(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    delivery = deliver(broker)
    with thread(lambda: delivery.publish(collect(delivery, 1), DEADLINE)):
        eventually(delivery, spooled=1)
        assert stored(folder) == [1]
        broker.settle()


def test_several_callers_share_a_transaction(
    deliver: Deliver, away: ManualBroker, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    held = threading.Event()
    writes: list[int] = []
    write = Journal.write

    def slow(journal: Journal, rows: Any = (), erased: Any = ()) -> None:
        rows = list(rows)
        writes.append(len(rows))
        assert held.wait(DEADLINE) or len(writes) > 1
        write(journal, rows, erased)

    monkeypatch.setattr(Journal, "write", slow)
    delivery = deliver(away)
    threads = [
        threading.Thread(target=delivery.publish, args=[collect(delivery, n)])
        for n in range(9)
    ]
    threads[0].start()
    wait_until(lambda: bool(writes), "the first write")
    for each in threads[1:]:
        each.start()
    wait_until(lambda: delivery.stats().retained == 9, "all are handed over")
    wait_until(lambda: len(requests(delivery)) == 8, "all wait")
    held.set()
    for each in threads:
        each.join(DEADLINE)
    assert writes == [1, 8]
    assert sorted(stored(folder)) == list(range(9))


def requests(delivery: Delivery) -> Any:
    backlog: Any = delivery._store
    return backlog._writer._requests


# Erasing


def test_a_confirm_erases_the_row(
    deliver: Deliver, broker: ManualBroker, folder: Path, signal_log: SignalLog
) -> None:
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1, 2))
    broker.settle()
    eventually(delivery, confirmed=2, unerased=0, spooled=0)
    assert stored(folder) == []
    signal_log.wait_for("events-published", [1, 2])


def test_a_row_that_is_just_being_erased_is_still_there(
    deliver: Deliver, broker: ManualBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    write = Journal.write

    def slow(journal: Journal, rows: Any = (), erased: Any = ()) -> None:
        begun.set()
        assert goes_on.wait(DEADLINE)
        write(journal, rows, erased)

    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1, 2))
    monkeypatch.setattr(Journal, "write", slow)
    broker.settle()
    assert begun.wait(DEADLINE)
    assert delivery.stats().unerased == 2
    goes_on.set()
    eventually(delivery, unerased=0)


def test_a_confirm_during_the_write_erases_the_row(
    deliver: Deliver,
    broker: ManualBroker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Journal.write

    def confirm_first(journal: Journal, rows: Any = (), erased: Any = ()) -> None:
        rows = list(rows)
        broker.settle()
        write(journal, rows, erased)

    monkeypatch.setattr(Journal, "write", confirm_first)
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1))
    eventually(delivery, confirmed=1, unerased=0)
    assert stored(folder) == []


def test_a_row_is_no_second_owner(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1))
    assert stored(folder) == [1]
    delivery.flush(0.2)
    assert len(broker.taken) == 1
    broker.settle()
    assert books(delivery) == {"confirmed": 1}


def test_what_is_not_erased_yet_is_counted(
    deliver: Deliver, broker: ManualBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1, 2))
    monkeypatch.setattr(
        Journal, "write", failing(sqlite3.OperationalError("disk I/O error"))
    )
    broker.settle()
    eventually(delivery, confirmed=2, unerased=2, spool_error="disk I/O error")
    monkeypatch.undo()
    eventually(delivery, unerased=0, spool_error="")


@pytest.mark.parametrize("drop_oldest", [False, True])
def test_what_is_dropped_is_erased(
    deliver: Deliver, away: ManualBroker, folder: Path, drop_oldest: bool
) -> None:
    delivery = deliver(away, max_events=2, drop_oldest=drop_oldest)
    for payload in (1, 2, 3):
        delivery.publish(collect(delivery, payload))
    eventually(delivery, dropped=1, unerased=0, spooled=2)
    assert stored(folder) == ([2, 3] if drop_oldest else [1, 2])


def test_what_is_purged_is_erased(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    delivery = deliver(away)
    entries = collect(delivery, 1, 2)
    ids = [entry.event.id for entry in entries]
    delivery.publish(entries)
    assert delivery.purge(ids[:1]) == 1
    eventually(delivery, unerased=0)
    assert stored(folder) == [2]


# The end of the process, and the next one


def test_what_is_left_at_the_end_stays_on_disk_and_is_not_dropped(
    deliver: Deliver, away: ManualBroker, folder: Path, signal_log: SignalLog
) -> None:
    delivery = deliver(away)
    delivery.hand_over(collect(delivery, 1, 2))
    assert not delivery.close(0)
    assert stored(folder) == [1, 2]
    assert books(delivery) == {"retained": 2}
    assert signal_log.payloads("events-dropped") == []
    assert spool_threads() == []


def test_what_is_in_flight_at_the_end_stays_on_disk(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    delivery = deliver(broker)
    delivery.hand_over(collect(delivery, 1))
    broker.wait_for(1)
    assert not delivery.close(0)
    assert stored(folder) == [1]


def test_what_is_left_is_not_adopted_by_the_process_that_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The adopter keeps scanning, even after the writer has released its file.
    monkeypatch.setattr(adopter, "SCAN_INTERVAL", 0.0)
    monkeypatch.setattr(adopter, "TICK", 0.0)
    for number in range(10):
        folder = tmp_path / str(number)
        away = ManualBroker(BrokerState.DOWN)
        with delivering(away, backlog=spooling(folder), durable=True) as delivery:
            delivery.publish(collect(delivery, number))
            delivery.close(0)
        assert len(list(folder.glob("*.spool"))) == 1


def test_it_is_on_disk_before_the_last_flush_begins(
    deliver: Deliver, folder: Path
) -> None:
    seen: list[Any] = []

    class Watched(ManualBroker):
        def reconnect_now(self) -> None:
            seen.append(stored(folder))

    delivery = deliver(Watched(BrokerState.DOWN), confirm_timeout=DEADLINE)
    delivery.hand_over(collect(delivery, 1))
    delivery.close(0.1)
    assert seen == [[1]]


def test_a_file_with_nothing_in_it_is_removed_at_the_end(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1))
    broker.settle()
    assert delivery.close(DEADLINE)
    assert files(folder) == []


def test_the_next_process_delivers_what_was_left(
    deliver: Deliver, folder: Path, signal_log: SignalLog
) -> None:
    leave(folder, "abc")
    memory = MemoryBroker()
    delivery = deliver(memory)
    assert delivery.publish(collect(delivery, "new", queue="other")).confirmed == 1
    eventually(delivery, adopted=3, confirmed=4, unerased=0, retained=0)
    wait_until(lambda: files(folder) == [], "the file is removed")
    assert payloads(memory, "q") == ["a", "b", "c"]
    assert payloads(memory, "other") == ["new"]

    def heard() -> list[str]:
        return sorted(signal_log.payloads("events-published"))

    # Whether the file is found before or after the new event depends on the threads.
    wait_until(lambda: heard() == ["a", "b", "c", "new"], "each is reported")


def test_what_a_dead_process_has_left_is_marked(deliver: Deliver, folder: Path) -> None:
    leave(folder, ["a"], headers={"own": 1})
    memory = MemoryBroker()
    delivery = deliver(memory)
    delivery.start()
    eventually(delivery, confirmed=1)
    [event] = memory.events("q")
    assert event.id == "a"
    assert event.headers == {"own": 1, POSSIBLE_DUPLICATE: True}


def test_what_was_adopted_stays_on_disk_until_it_is_confirmed(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    leave(folder, "ab")
    delivery = deliver(broker)
    delivery.start()
    broker.wait_for(2)
    assert stored(folder) == ["a", "b"]
    assert not delivery.close(0)
    assert stored(folder) == ["a", "b"]


def test_the_order_outlives_a_process_that_sent_nothing(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    path = leave(folder, range(10))
    delivery = deliver(away, page=4)
    delivery.start()
    eventually(delivery, adopted=4, unadopted=6)
    # Overdue events would be written into the own file.
    delivery.publish(collect(delivery, "new", queue="other"))
    assert not delivery.close(0)
    journal = Journal.open(path, read_only=True)
    assert len(list(journal.scan(0, 100))) == 10
    journal.close()
    heir = deliver(memory := MemoryBroker())
    heir.start()
    eventually(heir, confirmed=11)
    assert [e.payload for e in memory.events("q")] == list(range(10))


def test_several_files_are_adopted(deliver: Deliver, folder: Path) -> None:
    for letters in ("ab", "cd", "ef"):
        leave(folder, letters)
    delivery = deliver(MemoryBroker())
    delivery.start()
    eventually(delivery, confirmed=6)
    wait_until(lambda: files(folder) == [], "the files are removed")


def test_no_caller_waits_while_a_large_file_is_checked(
    deliver: Deliver,
    away: ManualBroker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def check(journal: Journal) -> None:
        begun.set()
        assert may_end.wait(DEADLINE)

    monkeypatch.setattr(Journal, "check", check)
    leave(folder, "ab")
    delivery = deliver(away)
    delivery.start()
    assert begun.wait(DEADLINE)
    delivery.publish(collect(delivery, 1))
    assert delivery.stats().spooled == 1
    may_end.set()
    eventually(delivery, adopted=2, spooled=3)


def test_a_file_is_adopted_once(deliver: Deliver, folder: Path) -> None:
    leave(folder, "abc")
    first, second = deliver(MemoryBroker()), deliver(MemoryBroker())
    for delivery in (first, second):
        delivery.start()
    wait_until(
        lambda: first.stats().confirmed + second.stats().confirmed == 3, "all are sent"
    )
    assert first.stats().adopted + second.stats().adopted == 3


def test_no_more_than_a_page_is_in_memory(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    leave(folder, range(50))
    delivery = deliver(broker, page=10)
    delivery.start()
    sent = []
    for _ in range(50):
        wait_until(lambda: bool(broker.taken), "an event is sent")
        stats = delivery.stats()
        assert stats.retained + stats.in_flight <= 10
        assert stats.unadopted + stats.adopted <= 50
        entry = broker.taken.pop(0)
        sent.append(entry.event.payload)
        delivery.settle([Settlement(entry, Outcome.CONFIRMED)])
        broker.wake()
    assert sent == list(range(50))
    eventually(delivery, confirmed=50, unadopted=0)


def test_a_missing_queue_holds_up_no_other(deliver: Deliver, folder: Path) -> None:
    memory = MemoryBroker()
    FaultInjector.of(memory).refuse("missing")
    leave(folder, range(100), queue="missing")
    leave(folder, range(100, 200))
    path = leave(folder, range(200, 300), queue="missing")
    journal = Journal.open(path)
    journal.write(rows(range(300, 400), first=1000, queue="q"))
    journal.close()
    delivery = deliver(memory, page=20)
    delivery.start()
    eventually(delivery, confirmed=200)
    assert delivery.stats().retained < 2 * 20

    def is_all_counted() -> bool:
        # While a page is being adopted, its events count twice.
        stats = delivery.stats()
        return stats.retained + stats.unadopted == 200

    wait_until(is_all_counted, "each event is here, or still to be read")


def test_memory_that_is_full_waits_with_adopting(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    delivery = deliver(away, max_events=2)
    entries = collect(delivery, 1, 2)
    # Only now, since files found before the memory is full are adopted.
    leave(folder, "abc")
    delivery.flush(0)
    eventually(delivery, unadopted=3)
    assert delivery.stats().dropped == 0
    delivery.discard(entries, "test")
    eventually(delivery, adopted=1, retained=1)


def test_a_delayed_event_is_held_back_over_a_restart(
    deliver: Deliver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, "a", properties=Properties(delay=3600))
    leave(folder, "b")
    delivery = deliver(MemoryBroker())
    delivery.start()
    eventually(delivery, delayed=1, confirmed=1)
    assert delivery.flush(DEADLINE)
    assert stored(folder) == ["a"]
    delivery.close(1)
    assert delivery.stats().dropped == 0

    pass_time(monkeypatch, 3600)
    delivery = deliver(MemoryBroker())
    delivery.start()
    eventually(delivery, confirmed=1, delayed=0)


def test_delayed_events_on_disk_do_not_take_the_turns_of_others(
    deliver: Deliver, folder: Path
) -> None:
    path = leave(folder, "abcdefgh", properties=Properties(delay=60))
    journal = Journal.open(path)
    journal.write(rows("ijkl", first=100))
    journal.close()
    delivery = deliver(MemoryBroker(), page=2)
    delivery.start()
    eventually(delivery, delayed=8, confirmed=4)


def test_an_event_that_has_expired_on_disk_is_dropped(
    deliver: Deliver, folder: Path, signal_log: SignalLog
) -> None:
    path = leave(folder, "ab", properties=Properties(expires_in=0.001))
    delivery = deliver(MemoryBroker())
    delivery.start()
    signal_log.wait_for("events-dropped", "ab")
    assert signal_log.reasons("events-dropped") == ["expired"]
    wait_until(lambda: not path.exists(), "its file is gone")


def await_put_off(delivery: Delivery, expected: int) -> None:
    """Wait until so many rows of the one file were passed."""

    def is_put_off() -> bool:
        found = delivery._store._adopter._orphans  # type: ignore[attr-defined]
        return [one.put_off for one in found] == [expected]

    wait_until(is_put_off, f"{expected} rows are put off")


def pass_time_on_disk(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let what is read from a file be due. What is in memory is not."""
    pass_time(monkeypatch, seconds)
    later = SimpleNamespace(
        time=lambda: time.time() + seconds, monotonic=time.monotonic
    )
    monkeypatch.setattr(orphan, "time", later)


def test_delayed_events_on_disk_leave_half_of_the_memory_to_others(
    deliver: Deliver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, range(300), properties=Properties(delay=3600))
    leave(folder, "abc", queue="q")
    broker = MemoryBroker()
    delivery = deliver(broker, max_events=100, page=20)
    delivery.start()
    eventually(delivery, confirmed=3, delayed=50, unadopted=250)
    await_put_off(delivery, 250)
    assert delivery.publish(collect(delivery, "new")).confirmed == 1
    assert delivery.stats().dropped == 0

    pass_time_on_disk(monkeypatch, 3600)
    eventually(delivery, confirmed=254, delayed=50, unadopted=0)
    assert payloads(broker, "q") == [*"abc", "new", *range(50, 300)]


def test_delayed_events_that_stay_on_disk_are_read_once_there_is_room(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    leave(folder, "abc", properties=Properties(delay=3600))
    delivery = deliver(away, max_events=4)
    entries = collect(delivery, 1, 2)
    delivery.start()
    await_put_off(delivery, 3)
    delivery.discard(entries, "test")
    eventually(delivery, delayed=2, unadopted=1)
    await_put_off(delivery, 1)


@pytest.mark.parametrize("what", ["purge", "redirect"])
def test_delayed_events_that_stay_on_disk_can_be_changed(
    deliver: Deliver, folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = leave(folder, "abcdefgh", properties=Properties(delay=3600))
    first, second = MemoryBroker(), MemoryBroker()
    delivery = deliver(first, max_events=4)
    delivery.start()
    await_put_off(delivery, 6)
    asked(path, what, "aceg", "new")
    is_gone = what == "purge"
    await_put_off(delivery, 2 if is_gone else 6)

    pass_time_on_disk(monkeypatch, 3600)
    eventually(delivery, delayed=2, unadopted=0)
    delivery.close(1)
    deliver(second).start()
    wait_until(lambda: files(folder) == [], "the file is finished")
    sent = {
        queue: sorted(payloads(first, queue) + payloads(second, queue))
        for queue in ("q", "new")
    }
    assert sent == {"q": [*"bdfh"], "new": [] if is_gone else [*"aceg"]}


def test_a_delayed_event_is_on_disk_before_its_publish_returns(
    deliver: Deliver, folder: Path
) -> None:
    delivery = deliver(MemoryBroker())
    entries: list[Any] = []
    delivery.collect(entries, make_event("a", properties=Properties(delay=60)))
    assert delivery.publish(entries).delayed == 1
    assert stored(folder) == ["a"]


def test_a_flush_delivers_all_that_dead_processes_have_left(
    deliver: Deliver, folder: Path
) -> None:
    delivery = deliver(MemoryBroker(), page=7)
    delivery.start()
    eventually(delivery, broker=BrokerState.READY)
    leave(folder, range(100))
    assert delivery.flush(DEADLINE)
    assert delivery.stats().confirmed == 100


def test_a_flush_delivers_more_files_than_may_be_open(
    deliver: Deliver, folder: Path
) -> None:
    delivery = deliver(MemoryBroker())
    delivery.start()
    eventually(delivery, broker=BrokerState.READY)
    for number in range(2 * adopter._MOST_FILES + 1):
        leave(folder, [number])
    assert delivery.flush(DEADLINE)
    assert delivery.stats().confirmed == 2 * adopter._MOST_FILES + 1


def test_files_that_are_not_open_yet_are_not_taken_for_delivered(
    deliver: Deliver, away: ManualBroker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopter, "_MOST_FILES", 1)
    leave(folder, "a")
    leave(folder, "b")
    delivery = deliver(away)
    delivery.start()
    eventually(delivery, adopted=1)
    delivery.purge("ab")
    assert not delivery.flush(0)
    eventually(delivery, adopted=2)


def test_a_flush_ends_when_the_rest_is_refused(deliver: Deliver, folder: Path) -> None:
    memory = MemoryBroker()
    FaultInjector.of(memory).refuse("missing")
    leave(folder, range(100), queue="missing")
    leave(folder, range(100, 200))
    delivery = deliver(memory, page=10)
    delivery.start()
    with thread(lambda: delivery.flush(DEADLINE)) as flushing:
        flushing.join(DEADLINE / 2)
        assert not flushing.is_alive()
    eventually(delivery, confirmed=100)


# Dead events


def test_a_dead_event_is_dead_on_disk_and_in_the_next_process(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1))
    broker.settle(Outcome.NACKED, reason="too large", final=True)
    eventually(delivery, dead=1, unerased=0)
    assert delivery.close(0)
    heir = deliver(ManualBroker())
    heir.start()
    eventually(heir, adopted=1, dead=1)
    [dead] = heir.dead()
    assert (dead.event.payload, dead.reason) == (1, "too large")
    # Events that were not retried stay for the next process.
    heir.close(0)
    assert stored(folder) == [1]


def test_a_dead_event_that_is_retried_is_dead_no_more(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1))
    broker.settle(Outcome.NACKED, reason="too large", final=True)
    eventually(delivery, dead=1, unerased=0)
    broker.state = BrokerState.DOWN
    assert delivery.retry(None) == 1
    eventually(delivery, unerased=0)
    delivery.close(0)
    heir = deliver(MemoryBroker())
    heir.start()
    eventually(heir, confirmed=1)


def test_a_confirm_while_a_retried_row_is_written_removes_the_file(
    deliver: Deliver,
    broker: ManualBroker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1))
    broker.settle(Outcome.NACKED, final=True)
    delivery.close(0)
    heirs_broker = ManualBroker()
    heir = deliver(heirs_broker)
    heir.start()
    eventually(heir, dead=1)
    write = Journal.write

    def confirm_first(journal: Journal, rows: Any = (), erased: Any = ()) -> None:
        if rows:
            heirs_broker.wait_for(1)
            heirs_broker.settle()
        write(journal, rows, erased)

    monkeypatch.setattr(Journal, "write", confirm_first)
    assert heir.retry(None) == 1
    eventually(heir, confirmed=1, unerased=0)
    wait_until(lambda: not files(folder), f"no {files(folder)}")
    assert heir.stats().quarantined == 0


# Failing disks


def test_what_a_full_disk_does_not_take_stays_in_memory_counted(
    deliver: Deliver,
    away: ManualBroker,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    monkeypatch.setattr(Journal, "write", failing(full))
    delivery = deliver(away)
    assert delivery.publish(collect(delivery, 1, 2)).retained == 2
    stats = delivery.stats()
    assert stats.unspooled == 2
    assert stats.spooled == 0
    assert stats.spool_error == "database or disk is full"
    wait_until(lambda: "Spool problem: database or disk is full" in caplog.text, "log")
    monkeypatch.undo()
    eventually(delivery, unspooled=0, spooled=2, spool_error="")
    assert stored(folder) == [1, 2]


def test_no_caller_waits_again_and_again_for_a_disk_that_hangs(
    deliver: Deliver, away: ManualBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    monkeypatch.setattr(Journal, "write", lambda *args: hangs.wait(DEADLINE))
    monkeypatch.setattr(writer, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(circuit_breaker, "PAUSE", DEADLINE)
    delivery = deliver(away)
    delivery.publish(collect(delivery, 1))
    assert delivery.stats().spool_error == "the disk does not respond"
    delivery.publish(collect(delivery, 2))
    assert len(requests(delivery)) == 0
    hangs.set()


def test_a_folder_that_can_not_be_made_is_no_reason_to_fail(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    folder.touch()
    delivery = deliver(away)
    assert delivery.publish(collect(delivery, 1)).retained == 1
    assert "File exists" in delivery.stats().spool_error
    assert not delivery.close(0)
    assert books(delivery) == {"dropped": 1}


def test_a_damaged_own_file_is_quarantined_and_written_anew(
    deliver: Deliver, away: ManualBroker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(away)
    delivery.publish(collect(delivery, 1))
    damage = sqlite3.DatabaseError("database disk image is malformed")
    monkeypatch.setattr(Journal, "write", failing(damage))
    delivery.publish(collect(delivery, 2))
    eventually(delivery, quarantined=1)
    monkeypatch.undo()
    eventually(delivery, spooled=2, quarantined=1)
    assert len(list(folder.glob("*.quarantined"))) == 1
    assert sorted(stored(folder)) == [1, 2]


def test_a_file_quarantined_at_the_last_moment_is_signalled(
    deliver: Deliver,
    folder: Path,
    signal_log: SignalLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = leave(folder, ["first"])
    path.write_bytes(path.read_bytes().replace(b"first", b"fIrst"))
    flusher_has_ended = threading.Event()
    quarantine = Claim.quarantine

    def quarantine_late(claim: Claim) -> Path:
        assert flusher_has_ended.wait(DEADLINE)
        return quarantine(claim)

    monkeypatch.setattr(Claim, "quarantine", quarantine_late)
    delivery = deliver(MemoryBroker())
    stop = delivery._flusher.stop

    def stop_and_say_so(timeout: float) -> bool:
        stopped = stop(timeout)
        flusher_has_ended.set()
        return stopped

    monkeypatch.setattr(delivery._flusher, "stop", stop_and_say_so)
    delivery.start()
    delivery.close(0.1)
    assert signal_log.reasons("spool-file-quarantined") == [
        "checksum mismatch in 1 row"
    ]


def test_a_file_that_can_not_be_read_for_now_is_tried_again(
    deliver: Deliver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, "ab")
    monkeypatch.setattr(adopter, "SCAN_INTERVAL", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "check", failing(sqlite3.OperationalError("locked")))
        delivery = deliver(MemoryBroker())
        delivery.start()
        eventually(delivery, spool_error="locked")
    eventually(delivery, confirmed=2, spool_error="")


def test_what_was_read_before_an_error_is_adopted(
    deliver: Deliver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(leave(folder, "ab", queue="q1"))
    journal.write(rows("cd", first=10, queue="q2"))
    journal.close()
    rows_of = Journal.rows_of
    calls: list[Any] = []

    def fail_at_second(journal: Journal, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise sqlite3.OperationalError("locked")
        return rows_of(journal, *args)

    monkeypatch.setattr(Journal, "rows_of", fail_at_second)
    delivery = deliver(MemoryBroker())
    delivery.start()
    eventually(delivery, confirmed=4, unadopted=0, retained=0)
    wait_until(lambda: files(folder) == [], "the file is removed")


def test_a_file_that_turns_out_to_be_damaged_stays_until_its_events_are_written(
    deliver: Deliver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leave(folder, "ab")
    broker = ManualBroker()
    delivery = deliver(broker)
    delivery.start()
    broker.wait_for(2)

    def fail(journal: Journal, *args: Any) -> None:
        if journal.path == path:
            raise sqlite3.DatabaseError("database disk image is malformed")
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", fail)
        # Their rows must be updated, which reveals the damage.
        broker.settle(Outcome.NACKED, reason="too large", final=True)
        eventually(delivery, unspooled=2, spool_error="database or disk is full")
        delivery._store.scan(DEADLINE)
        delivery._store.scan(DEADLINE)
        assert delivery.stats().quarantined == 0
        assert path.exists()
    eventually(delivery, spooled=2, quarantined=1, adopted=2, dead=2)


@pytest.mark.parametrize("method", ["rows_of", "is_empty"])
def test_damage_that_shows_while_a_file_is_read_costs_no_event(
    deliver: Deliver, folder: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    leave(folder, "abc")
    damage = sqlite3.DatabaseError("database disk image is malformed")
    monkeypatch.setattr(Journal, method, failing(damage))
    delivery = deliver(memory := MemoryBroker())
    delivery.start()
    eventually(delivery, quarantined=1, confirmed=3)
    assert [e.payload for e in memory.events("q")] == ["a", "b", "c"]


def test_damage_that_shows_when_an_operator_asks_costs_no_event(
    deliver: Deliver,
    away: ManualBroker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = leave(folder, "abcd")
    delivery = deliver(away, page=2)
    delivery.start()
    eventually(delivery, adopted=2, unadopted=2)
    damage = sqlite3.DatabaseError("database disk image is malformed")
    monkeypatch.setattr(Journal, "rows_with", failing(damage))
    assert submit(path, ControlRequest("retry", ["d"]))
    eventually(delivery, adopted=4, spooled=4, quarantined=1)


def test_a_damaged_file_whose_events_are_written_at_the_end_is_not_read_again(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    path = leave(folder, "ab")
    path.write_bytes(b"not SQLite" + path.read_bytes()[10:])
    delivery = deliver(away, confirm_timeout=DEADLINE)
    delivery.start()
    eventually(delivery, adopted=2, unadopted=0, spooled=0)
    assert not delivery.close(0)
    assert stored(folder) == ["a", "b"]
    assert delivery.stats().quarantined == 1
    assert not path.exists()


def test_a_damaged_file_whose_events_are_not_written_stays_for_the_next_process(
    deliver: Deliver,
    away: ManualBroker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = leave(folder, "ab")
    path.write_bytes(b"not SQLite" + path.read_bytes()[10:])
    with monkeypatch.context() as patch:
        full = sqlite3.OperationalError("database or disk is full")
        patch.setattr(Journal, "write", failing(full))
        delivery = deliver(away)
        delivery.start()
        eventually(delivery, adopted=2, unspooled=2)
        assert not delivery.close(0)
        assert path.exists()
    heir = deliver(MemoryBroker())
    heir.start()
    eventually(heir, confirmed=2, quarantined=1)


# Fork


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_file_alone(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    delivery = deliver(away)
    delivery.publish(collect(delivery, 1))
    if (child := os.fork()) == 0:
        # Like any Python process, it closes its copy of the connection at its end.
        backlog: Any = delivery._store
        backlog._writer._own[1].close()
        os._exit(0)
    os.waitpid(child, 0)
    delivery.publish(collect(delivery, 2))
    assert stored(folder) == [1, 2]
    [path] = folder.glob("*.spool")
    journal = Journal.open(path, read_only=True)
    journal.check()
    journal.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["write", "check"], ids=["spool", "adopter"])
def test_no_fork_happens_while_a_thread_is_inside_sqlite(
    deliver: Deliver,
    away: ManualBroker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """The child would inherit SQLite's mutexes, and hang when it opens a file."""
    begun, goes_on = threading.Event(), threading.Event()
    done: list[str] = []
    real = getattr(Journal, method)

    def slow(journal: Journal, *args: Any) -> None:
        begun.set()
        assert goes_on.wait(DEADLINE)
        real(journal, *args)
        done.append(method)

    leave(folder, "a")
    monkeypatch.setattr(Journal, method, slow)
    # A thread of an earlier test may still be busy, for example with a slow disk.
    monkeypatch.setattr(forks, "LIMIT", DEADLINE / 2)
    delivery = deliver(away)
    delivery.hand_over(collect(delivery, 1))
    assert begun.wait(DEADLINE)

    def fork() -> None:
        assert in_child(lambda: done[:1]) == [method]

    with thread(fork):
        wait_until(lambda: forks._forking, "the fork waits")
        goes_on.set()


def test_the_figures_of_two_apps_can_be_added() -> None:
    first = Stats(spooled=1, unadopted=2, spool_error="full")
    second = Stats(spooled=3, unerased=4)
    both = first + second
    assert (both.spooled, both.unadopted, both.unerased) == (4, 2, 4)
    assert both.spool_error == "full"


def test_the_spool_needs_no_waiting_caller(folder: Path) -> None:
    with delivering(MemoryBroker(), backlog=spooling(folder), durable=True) as delivery:
        # It was never started.
        assert delivery.flush(0)


# Requests from the command line


def leave_with_dead(folder: Path) -> Path:
    """A file with ten waiting events, followed by three dead ones."""
    path = leave(folder, range(10))
    journal = Journal.open(path)
    journal.write(dead_rows("abc"))
    journal.close()
    return path


def asked(path: Path, what: str, ids: Iterable[str], queue: str = "") -> None:
    request = ControlRequest(what, list(ids), queue)
    assert submit(path, request)
    wait_until(lambda: not is_pending(path, request), "it is fulfilled")


def test_dead_events_are_retried_that_are_not_in_memory_yet(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    path = leave_with_dead(folder)
    delivery = deliver(away, page=4)
    delivery.start()
    eventually(delivery, adopted=4, unadopted=9)

    asked(path, "retry", "ac")

    assert delivery.stats().unadopted == 9
    delivery.close(0)
    heir = deliver(memory := MemoryBroker())
    heir.start()
    eventually(heir, confirmed=12, dead=1)
    assert [e.payload for e in memory.events("q")] == [*range(10), "a", "c"]


def test_events_are_purged_that_are_not_in_memory_yet(
    deliver: Deliver, away: ManualBroker, folder: Path, signal_log: SignalLog
) -> None:
    path = leave_with_dead(folder)
    delivery = deliver(away, page=4)
    delivery.start()
    eventually(delivery, adopted=4, unadopted=9)

    asked(path, "purge", "089b")

    # Event 0 was in memory, so there is room for another one now.
    eventually(delivery, dropped=4, unerased=0)
    signal_log.wait_for("events-dropped", [0, 8, 9, "b"])
    assert stored(folder) == [*range(1, 8), "a", "c"]
    assert delivery.stats().balanced


def leave_for_two_queues(folder: Path) -> Path:
    """A file with ten events for ``q``, then two for ``new``."""
    path = leave(folder, range(10))
    journal = Journal.open(path)
    journal.write(rows("xy", first=100, queue="new"))
    journal.close()
    return path


def payloads(broker: MemoryBroker, queue: str) -> list[Any]:
    return [event.payload for event in broker.events(queue)]


def test_redirected_events_outlive_the_process_in_their_order(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    path = leave_for_two_queues(folder)
    delivery = deliver(away, page=4)
    delivery.start()
    eventually(delivery, adopted=4, unadopted=8)

    # The first two are in memory, the others are not.
    asked(path, "redirect", "1605", "new")

    assert delivery.stats().balanced
    delivery.close(0)
    heir = deliver(memory := MemoryBroker())
    heir.start()
    eventually(heir, confirmed=12)
    assert payloads(memory, "new") == [0, 1, 5, 6, "x", "y"]
    assert payloads(memory, "q") == [2, 3, 4, 7, 8, 9]


def test_the_process_that_redirects_events_delivers_each_once(
    deliver: Deliver, folder: Path
) -> None:
    path = leave_for_two_queues(folder)
    memory = MemoryBroker()
    FaultInjector.of(memory).go_down()
    delivery = deliver(memory, page=4)
    delivery.start()
    eventually(delivery, adopted=4, unadopted=8)

    asked(path, "redirect", "0156", "new")
    asked(path, "redirect", "05", "third")
    FaultInjector.of(memory).come_up()

    eventually(delivery, confirmed=12, unadopted=0, retained=0)
    assert payloads(memory, "third") == [0, 5]
    assert [n for n in payloads(memory, "new") if n not in ("x", "y")] == [1, 6]
    assert sorted(map(str, payloads(memory, "new"))) == ["1", "6", "x", "y"]
    assert payloads(memory, "q") == [2, 3, 4, 7, 8, 9]
    wait_until(lambda: not list(folder.iterdir()), "the file is removed")
    assert delivery.stats().quarantined == 0


def test_events_in_the_own_file_are_redirected(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    delivery = deliver(away)
    entries = collect(delivery, 1, 2)
    ids = [entry.event.id for entry in entries]
    delivery.publish(entries)
    [path] = folder.glob("*.spool")

    asked(path, "redirect", ids, "new")

    eventually(delivery, retained=2, spooled=2, unerased=0)
    delivery.close(0)
    heir = deliver(memory := MemoryBroker())
    heir.start()
    eventually(heir, confirmed=2)
    assert payloads(memory, "new") == [1, 2]


def test_an_event_in_flight_is_not_redirected(
    deliver: Deliver, broker: ManualBroker, folder: Path
) -> None:
    delivery = deliver(broker)
    delivery.publish(collect(delivery, 1))
    [entry] = broker.taken
    [path] = folder.glob("*.spool")

    asked(path, "redirect", [entry.event.id], "new")

    assert entry.event.target_queue == "q"
    broker.settle()
    eventually(delivery, confirmed=1)


def test_a_damaged_row_among_redirected_ones_hides_none_of_them(
    deliver: Deliver, away: ManualBroker, folder: Path, signal_log: SignalLog
) -> None:
    path = leave(folder, "abc")
    with sqlite3.connect(path) as connection:
        sql = f"INSERT INTO events VALUES ({', '.join('?' * 10)})"
        connection.executemany(sql, rows("d", first=5))
        connection.executemany(sql, rows("x", first=4, queue="new"))
        connection.execute("UPDATE events SET body = 'damaged' WHERE number = 4")
        connection.executemany(sql, rows("yz", first=100, queue="new"))
    connection.close()
    delivery = deliver(away, page=4)
    delivery.start()
    eventually(delivery, adopted=3, unadopted=3)

    asked(path, "redirect", "cd", "new")
    asked(path, "purge", "abyz")

    eventually(delivery, adopted=6, unadopted=0, dropped=4, retained=2)
    delivery.purge("cd")
    wait_until(lambda: signal_log.reasons("spool-file-quarantined"), "it is finished")
    [reason] = signal_log.reasons("spool-file-quarantined")
    assert reason == "checksum mismatch in 1 row"


def test_a_file_of_which_all_is_purged_is_removed(
    deliver: Deliver, away: ManualBroker, folder: Path
) -> None:
    path = leave(folder, "abcdef")
    delivery = deliver(away, page=2)
    delivery.start()
    eventually(delivery, adopted=2, unadopted=4)

    asked(path, "purge", "abcdef")

    eventually(delivery, dropped=6, unadopted=0)
    wait_until(lambda: not list(folder.iterdir()), "the file is removed")


def test_who_waits_for_the_disk_does_not_wait_for_a_wish(
    deliver: Deliver,
    away: ManualBroker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on = threading.Event()
    purge = Ledger.purge

    def slow(ledger: Ledger, ids: Any) -> Any:
        assert goes_on.wait(DEADLINE)
        return purge(ledger, ids)

    delivery = deliver(away)
    entries = collect(delivery, 1)
    delivery.publish(entries)
    [path] = folder.glob("*.spool")
    monkeypatch.setattr(Ledger, "purge", slow)
    held = threading.Event()
    write = Journal.write

    def wait_for_the_wish(journal: Journal, rows: Any = (), erased: Any = ()) -> None:
        assert submit(path, ControlRequest("purge", ["nobody"]))
        write(journal, rows, erased)
        held.set()

    monkeypatch.setattr(Journal, "write", wait_for_the_wish)
    with thread(lambda: delivery.publish(collect(delivery, 2))) as publishing:
        assert held.wait(DEADLINE)
        publishing.join(writer.LONGEST_WAIT / 2)
        assert not publishing.is_alive()
        goes_on.set()
    assert delivery.stats().spool_error == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"action": "retry", "ids": 7}',
        '{"action": "redirect", "ids": ["ID"]}',
        '{"action": "redirect", "ids": ["ID"], "queue": ""}',
        '{"action": "redirect", "ids": ["ID"], "queue": 7}',
        '{"action": "redirect", "ids": ["ID"], "queue": "\\ud800"}',
        "\0",
    ],
)
def test_an_invalid_request_is_removed(
    deliver: Deliver, away: ManualBroker, folder: Path, text: str
) -> None:
    delivery = deliver(away)
    entries = collect(delivery, 1)
    [entry] = entries
    delivery.publish(entries)
    [path] = folder.glob("*.spool")
    request = Path(f"{path}.request")
    request.write_text(text.replace("ID", entry.event.id))
    wait_until(lambda: not request.exists(), "it is taken away")
    assert books(delivery) == {"retained": 1}
    assert entry.target.queue == "q"


@pytest.mark.parametrize("is_adopted", [False, True], ids=["own", "adopted"])
def test_what_follows_a_request_does_not_wait_for_the_next_tick(
    deliver: Deliver,
    away: ManualBroker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_adopted: bool,
) -> None:
    """A large command writes one after the other."""
    monkeypatch.setattr(control, "MORE_WITHIN", 10 * DEADLINE)
    if is_adopted:
        leave(folder, "a")
    delivery = deliver(away)
    delivery.start()
    delivery.publish([] if is_adopted else collect(delivery, 1))
    eventually(delivery, **({"adopted": 1} if is_adopted else {"enqueued": 1}))
    [path] = folder.glob("*.spool")
    asked(path, "purge", ["nobody"])
    for module in (adopter, writer, control, periodic_worker):
        monkeypatch.setattr(module, "TICK", 10 * DEADLINE)
    for id in "xyz":
        asked(path, "purge", [id])


def test_only_the_own_wish_is_taken_back(folder: Path) -> None:
    path = leave(folder, "a")
    mine, other = ControlRequest("retry", ["a"]), ControlRequest("retry", ["b"])
    assert submit(path, other)
    assert not submit(path, mine)
    assert not is_pending(path, mine)
    assert not withdraw(path, mine)
    assert withdraw(path, other)
    assert submit(path, mine)


def test_files_that_wait_for_a_missing_queue_hold_up_no_others(
    deliver: Deliver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopter, "_MOST_FILES", 2)
    monkeypatch.setattr(adopter, "SCAN_INTERVAL", 0.2)
    memory = MemoryBroker()
    FaultInjector.of(memory).refuse("missing")
    for name in "abc":
        leave(folder, [name], queue="missing")
    journal = Journal.open(leave(folder, ["dead-1"]))
    journal.write(dead_rows(["dead-2"]))
    journal.close()
    leave(folder, range(5))
    delivery = deliver(memory)
    delivery.start()
    eventually(delivery, adopted=10, confirmed=6, retained=3, dead=1)
    eventually(delivery, spooled=4)
    wait_until(lambda: len(list(folder.glob("*.spool"))) <= 3, "files are one now")
    assert not delivery.close(0)
    assert sorted(stored(folder)) == ["a", "b", "c", "dead-2"]
