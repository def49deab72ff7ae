"""Any first call of a process considers the events of dead processes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from flask_eventcollector import EventCollector
from flask_eventcollector.delivery.threads import note_own_thread
from flask_eventcollector.stores.spool import adopter
from flask_eventcollector.stores.spool import folder as folder_module
from flask_eventcollector.stores.spool.journal import Journal
from tests.helpers import DEADLINE, Shop, in_thread, open_shop, wait_until
from tests.spool import support
from tests.spool.support import APP, dead_rows, failing

#: Without a destination, so that it fits every broker.
leave = partial(support.leave, destination=None)

MakeShop = Callable[..., Shop]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def make_shop(folder: Path) -> Iterator[MakeShop]:
    with ExitStack() as shops:

        def make(**more: object) -> Shop:
            return shops.enter_context(
                open_shop(
                    BROKER_URL="memory://",
                    TESTING_BROKER=True,
                    BACKLOG="spool",
                    SPOOL_DIR=str(folder),
                    **more,
                )
            )

        yield make


@pytest.fixture
def shop(make_shop: MakeShop) -> Shop:
    return make_shop()


def leave_two(folder: Path) -> None:
    """A hundred events, left by two dead processes."""
    leave(folder, range(50))
    leave(folder, range(50, 100))


def leave_dead(folder: Path, payloads: str) -> None:
    """A dead process's file with dead events, whose payloads are their ids."""
    path = leave(folder, [])
    journal = Journal.open(path)
    journal.write(dead_rows(payloads))
    journal.close()


def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Make the check of each file wait for the event."""
    go_on = threading.Event()
    check = Journal.check

    def slow(journal: Journal) -> None:
        assert go_on.wait(DEADLINE)
        check(journal)

    monkeypatch.setattr(Journal, "check", slow)
    return go_on


def our_threads() -> set[threading.Thread]:
    """Also those of shops of other tests, which end once they are garbage."""
    return {t for t in threading.enumerate() if t.name.endswith(f"-{APP}")}


def test_flush_delivers_what_was_left(shop: Shop, folder: Path) -> None:
    leave_two(folder)
    assert shop.events.flush(DEADLINE)
    assert sorted(shop.sent()) == list(range(100))


def test_flush_in_the_app_s_context_does_so_too(shop: Shop, folder: Path) -> None:
    leave_two(folder)
    with shop.app_context():
        assert shop.events.flush(DEADLINE)
    assert len(shop.sent()) == 100


def test_flush_applies_to_each_app_outside_of_their_contexts(folder: Path) -> None:
    events = EventCollector()
    shops = []
    for name in ("one", "other"):
        leave(folder / name, range(10))
        settings = {"BROKER_URL": "memory://", "SPOOL_DIR": str(folder / name)}
        shops.append(Shop(events, BACKLOG="spool", TESTING_BROKER=True, **settings))

    assert events.flush(DEADLINE)

    for shop in shops:
        with shop.app_context():
            assert len(shop.sent()) == 10
    events.close(1)


def test_flush_waits_for_the_look_no_longer_than_it_may(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_two(folder)
    go_on = slow_disk(monkeypatch)

    assert not shop.events.flush(0.05)
    assert shop.sent() == []
    go_on.set()
    assert shop.events.flush(DEADLINE)


def test_flush_is_not_content_with_a_file_that_could_not_be_read(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_two(folder)
    with monkeypatch.context() as patch:
        error = OSError(errno.EMFILE, "Too many open files")
        patch.setattr(adopter, "open_sound", failing(error))
        assert not shop.events.flush(DEADLINE)
    assert shop.events.flush(DEADLINE)
    assert len(shop.sent()) == 100


def test_close_delivers_what_was_left(shop: Shop, folder: Path) -> None:
    leave_two(folder)
    assert shop.events.close(DEADLINE)
    assert shop.events.stats().confirmed == 100
    assert list(folder.iterdir()) == []


def test_close_without_time_to_look_does_not_claim_success(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_two(folder)
    go_on = slow_disk(monkeypatch)
    assert not shop.events.close(0)
    go_on.set()


def test_stats_count_what_was_left(shop: Shop, folder: Path) -> None:
    leave_two(folder)
    stats = shop.events.stats()
    assert stats.adopted + stats.unadopted == 100


def test_dead_lists_what_was_left(shop: Shop, folder: Path) -> None:
    leave_dead(folder, "ab")
    assert [dead.event.id for dead in shop.events.dead()] == ["a", "b"]


def test_retry_sends_what_was_left(shop: Shop, folder: Path) -> None:
    leave_dead(folder, "ab")
    assert shop.events.retry() == 2
    assert shop.events.flush(DEADLINE)
    assert shop.sent() == ["a", "b"]


def test_purge_drops_what_was_left(shop: Shop, folder: Path) -> None:
    leave_dead(folder, "ab")
    assert shop.events.purge(["b", "unknown"]) == 1
    assert [dead.event.id for dead in shop.events.dead()] == ["a"]
    assert shop.events.stats().dropped == 1


def test_the_broker_may_have_been_asked_for_before(shop: Shop, folder: Path) -> None:
    leave_two(folder)
    assert shop.sent() == []
    assert shop.events.flush(DEADLINE)
    assert len(shop.sent()) == 100


@pytest.mark.parametrize("call", ["flush", "close", "stats", "dead", "retry", "purge"])
def test_without_anything_left_no_thread_begins(shop: Shop, call: str) -> None:
    arguments: dict[str, tuple[object, ...]]
    arguments = {"flush": (1,), "close": (1,), "purge": ([],)}
    before = our_threads()
    getattr(shop.events, call)(*arguments.get(call, ()))
    assert our_threads() <= before


def test_a_call_waits_for_the_first_look_a_second_at_most(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_two(folder)
    monkeypatch.setattr(adopter, "LONGEST_WAIT", 0.05)
    go_on = slow_disk(monkeypatch)

    assert shop.events.stats().adopted == 0
    assert shop.events.dead() == ()
    go_on.set()
    wait_until(lambda: shop.events.stats().confirmed == 100, "delivery")


def test_the_library_s_own_threads_do_not_wait(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_two(folder)
    monkeypatch.setattr(adopter, "LONGEST_WAIT", 10 * DEADLINE)
    go_on = slow_disk(monkeypatch)

    def look() -> None:
        note_own_thread()
        assert shop.events.stats().adopted == 0

    in_thread(look)
    go_on.set()


def test_a_folder_that_cannot_be_listed_is_no_empty_folder(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_two(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", failing(OSError(errno.EMFILE, "Too many files")))
        assert not shop.events.flush(DEADLINE)
        assert "Too many files" in shop.events.stats().spool_error
    assert shop.events.flush(DEADLINE)
    assert len(shop.sent()) == 100


def test_a_file_that_cannot_be_locked_for_lack_of_descriptors_is_not_forgotten(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_two(folder)
    with monkeypatch.context() as patch:
        error = OSError(errno.EMFILE, "Too many files")
        patch.setattr(folder_module, "_open_locked", failing(error))
        assert not shop.events.flush(DEADLINE)
    assert shop.events.flush(DEADLINE)


def test_a_file_that_nobody_may_lock_holds_up_no_other(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_two(folder)
    first = min(folder.glob("*.spool"))
    open_locked = folder_module._open_locked

    def refuse(path: Path) -> int | None:
        if path == first:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_locked(path)

    monkeypatch.setattr(folder_module, "_open_locked", refuse)
    assert shop.events.flush(DEADLINE)
    assert len(shop.sent()) == 50
