"""The start of the threads, which another thread or a destructor may ask for, too."""

from __future__ import annotations

import threading

import pytest

from flask_eventcollector.delivery import startup as startup_module
from flask_eventcollector.delivery.log import ThrottledLog
from flask_eventcollector.delivery.startup import Startup
from tests.helpers import DEADLINE


@pytest.fixture
def startup() -> Startup:
    return Startup(ThrottledLog())


@pytest.mark.parametrize("ask", ["start", "forbid"])
def test_a_start_is_not_held_up_by_a_new_thread_that_asks_for_it(
    startup: Startup, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    monkeypatch.setattr(startup_module, "_PATIENCE", 0.01)
    ended = []

    def ask_again() -> None:
        # As a destructor does that runs before the new thread counts as started.
        startup.run(pytest.fail) if ask == "start" else startup.forbid()

    def start() -> None:
        thread = threading.Thread(target=ask_again, daemon=True)
        thread.start()
        thread.join(DEADLINE)
        ended.append(not thread.is_alive())

    startup.run(start)

    assert ended == [True]
    assert startup.is_done


def test_a_destructor_in_the_middle_of_a_start_starts_nothing(startup: Startup) -> None:
    startup.run(lambda: startup.run(pytest.fail))
    assert startup.is_done


def test_nothing_is_started_twice_or_once_it_is_forbidden(startup: Startup) -> None:
    startup.run(lambda: None)
    startup.run(pytest.fail)

    late = Startup(ThrottledLog())
    late.forbid()
    late.run(pytest.fail)
    assert not late.is_done
