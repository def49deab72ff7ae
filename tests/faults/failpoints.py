"""Points at which the app under test kills itself, once a request has asked for it."""

from __future__ import annotations

import functools
import os
import signal
from typing import Any

from sqlalchemy import event

from flask_eventcollector.stores.outbox.outbox import Outbox
from flask_eventcollector.stores.outbox.store import OutboxStore
from tests.faults.state import State

#: On the way of an event, in their order. In requests:
IN_REQUESTS = (
    # The state is written, but not the rows of the outbox.
    "flushed",
    # They are, but nothing is committed.
    "written",
    # All is committed, but not handed over to the thread that sends.
    "committed",
)
#: And with the library, also:
POINTS = (
    *IN_REQUESTS,
    # It is, but the thread has not read which rows are committed.
    "handed-over",
    # It has, but has sent nothing.
    "read",
    # The broker's thread has taken the events, but has sent nothing.
    "taken",
    # They are confirmed, but their rows are not erased.
    "confirmed",
)


class Failpoints:
    """Kills this process as soon as it reaches the point that is armed.

    To be made before the session is bound, so that its hooks are called first.
    """

    def __init__(self, state: State) -> None:
        self.armed = ""
        for target, name, point in (
            (state.sessions, "before_commit", "flushed"),
            (state.engine, "commit", "written"),
            (state.sessions, "after_commit", "committed"),
        ):
            event.listen(target, name, functools.partial(self._reach, point))
        self._kill_after(OutboxStore, "committed", "handed-over")
        self._kill_after(Outbox, "read", "read")
        self._kill_after(OutboxStore, "sending", "taken")
        self._kill_before(Outbox, "erase", "confirmed")

    def _reach(self, point: str, *_: object) -> None:
        if point == self.armed:
            os.kill(os.getpid(), signal.SIGKILL)

    def _kill_after(self, owner: type, name: str, point: str) -> None:
        method = getattr(owner, name)

        def call_and_reach(*args: Any, **more: Any) -> Any:
            result = method(*args, **more)
            self._reach(point)
            return result

        setattr(owner, name, call_and_reach)

    def _kill_before(self, owner: type, name: str, point: str) -> None:
        method = getattr(owner, name)

        def reach_and_call(this: Any, rows: Any) -> Any:
            if rows:
                self._reach(point)
            return method(this, rows)

        setattr(owner, name, reach_and_call)
