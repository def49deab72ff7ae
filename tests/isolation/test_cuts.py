"""An exception from a signal handler, at any bytecode: nothing is stuck or lost."""

from __future__ import annotations

import os
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flask_eventcollector.app_state import state_of
from flask_eventcollector.delivery import delivery, periodic_worker
from flask_eventcollector.delivery.process import current_process
from flask_eventcollector.stores.spool.folder import Folder
from tests.helpers import open_shop, wait_until
from tests.spool.support import APP, HERE, leave

from .bench import OPERATIONS, Bench
from .cuts import Cut, Knife, TimeLimit
from .fake_broker import FakeBroker

#: Where the events that :func:`leave` leaves are to go.
URL = "amqp://rabbit:5672/shop"

#: Every cut takes an hour. Otherwise a few are made, other ones each time.
EVERY = os.environ.get("TEST_CUTS") == "all"
PARTS = 20 if EVERY else 1
_SAMPLE = 6


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the flusher look more often at what is due."""
    monkeypatch.setattr(periodic_worker, "TICK", 0.02)
    monkeypatch.setattr(delivery, "TICK", 0.02)


@pytest.fixture(params=["memory", "spool", "rabbitmq"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The settings of a shop on the memory broker, with the spool, or on RabbitMQ."""
    with ExitStack() as stack:
        found: dict[str, Any] = {"RETRY_DELAY": 0.01, "RETRY_MAX_DELAY": 0.05}
        if request.param == "spool":
            found |= {"BACKLOG": "spool", "SPOOL_DIR": str(tmp_path / "spool")}
        if request.param == "rabbitmq":
            broker = stack.enter_context(FakeBroker())
            found |= {"BROKER_URL": broker.url, "TESTING_BROKER": True}
        yield found


@contextmanager
def open_bench(operation: str, settings: dict[str, Any]) -> Iterator[Bench]:
    bench = Bench(**settings)
    try:
        bench.prepare(operation)
        yield bench
    finally:
        bench.close()


def places(count: int, part: int) -> list[int]:
    """Where to cut."""
    every = range(1 + part, count + 1, PARTS)
    return list(every) if EVERY else sorted(random.sample(every, _SAMPLE))


def cut(
    bench: Bench,
    operation: str,
    knife: Knife,
    unheard: Callable[[], int] = lambda: 0,
) -> BaseException | None:
    """Cut *operation*, and check; returns what it raised.

    *unheard* returns how many events' signals the cut has kept from the receiver.
    """
    raised = None
    try:
        with knife:
            bench.run(operation)
    except BaseException as error:
        # Its traceback would keep what the interrupted frames hold.
        raised = error.with_traceback(None)
    # Nothing is being handled any more, or all later tests would see it.
    assert sys.exc_info()[1] is None, f"cut at {knife.place}"
    bench.unheard += unheard()
    try:
        bench.check(operation)
    except AssertionError as error:
        raise AssertionError(f"cut at {knife.place}: {error}") from None
    return raised


def counted(bench: Bench, operation: str, *, returns: bool) -> Knife:
    """A knife that has not cut."""
    with Knife(returns=returns):
        # Python 3.12 counts only from the second time on.
        bench.run("look")
    knife = Knife(returns=returns)
    assert cut(bench, operation, knife) is None
    assert knife.count > _SAMPLE
    return knife


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("returns", [False, True], ids=["bytecodes", "calls"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_stuck_or_lost(
    operation: str, returns: bool, part: int, settings: dict[str, Any]
) -> None:
    with ExitStack() as stack:
        bench = stack.enter_context(open_bench(operation, settings))
        whole = counted(bench, operation, returns=returns)
        for at in places(whole.count, part):
            if OPERATIONS[operation]:
                stack.close()
                bench = stack.enter_context(open_bench(operation, settings))
            knife = Knife(at, returns=returns)
            raised = cut(bench, operation, knife)
            assert isinstance(raised, Cut) or not knife.place, (raised, knife.place)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_time_limit_goes_on_as_itself(
    part: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is an ordinary exception. Where a receiver's would be logged, so is it."""
    with open_bench("publish", {}) as bench:
        whole = counted(bench, "publish", returns=False)
        for at in places(whole.count, part):
            caplog.clear()
            knife = Knife(at, TimeLimit)
            told = len(bench.told)

            def unheard(told: int = told) -> int:
                # Both events have one signal, and the receiver's call was cut.
                missed = "Signal receiver failed" in caplog.text
                return 2 if missed and len(bench.told) == told else 0

            raised = cut(bench, "publish", knife, unheard)
            logged = "Signal receiver failed" in caplog.text
            went_on = isinstance(raised, TimeLimit)
            assert went_on or logged or not knife.place, (raised, knife.place)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_first_look_for_dead_processes_leaves_no_file_locked(
    part: int, tmp_path: Path
) -> None:
    leave(tmp_path, [1])
    folder = Folder(tmp_path, APP, HERE)

    def look(knife: Knife) -> None:
        settings = {"BACKLOG": "spool", "SPOOL_DIR": str(tmp_path), "BROKER_URL": URL}
        with open_shop(**settings, TESTING_BROKER=True) as shop:
            state = state_of(shop)
            assert state is not None
            state.delivery().start = lambda: None  # type: ignore[method-assign]
            with suppress(Cut), knife:
                assert state.delivery_with_orphans()
        wait_until(folder.has_orphans, f"the file is free after a cut at {knife.place}")

    look(Knife())
    whole = Knife()
    look(whole)
    for at in places(whole.count, part):
        look(Knife(at))


def test_the_knife_spares_finalizers() -> None:
    class Owner:
        pass

    def end(knife: Knife) -> None:
        owner = Owner()
        weakref.finalize(owner, current_process)
        with knife:
            del owner

    whole = Knife()
    end(whole)
    assert whole.count
    for at in range(1, whole.count + 1):
        knife = Knife(at)
        end(knife)
        assert not knife.place
