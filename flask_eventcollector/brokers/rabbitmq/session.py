"""One connection to the broker, from its handshake to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import AMQPConnectionError

from ...config.topology import Topology
from ...delivery.broker import BrokerCallbacks
from ...delivery.entries import Settlement
from ...delivery.records import Kind, log_failure
from .channel_pool import ChannelPool
from .channels import STEP_TIMEOUT
from .connection import Connection, IOServices
from .declarations import Declarations
from .declarer import Declarer
from .leaving import Leaving
from .logins import Login, Logins
from .probe import Probe
from .readiness import Readiness
from .reasons import accuses_an_event, explain, is_unexpected
from .renewal import Renewal
from .waker import Waker

#: How many events are published before the socket is served again. The broker takes
#: the first ones while the next are encoded; fewer cost more system calls.
_TURN = 50
#: Seconds between two checks of timeouts.
_TICK = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all connections of one broker have in common."""

    callbacks: BrokerCallbacks
    declarations: Declarations
    topology: Topology
    #: The ``app_id`` of all messages.
    app_id: str
    waker: Waker
    logins: Logins
    #: Seconds to wait after that many consecutive failures.
    delay: Callable[[int], float]


class Session:
    """Runs one connection in the calling thread until the connection ends.

    Only :meth:`close` and :meth:`abort` may be called from other threads; the waker
    signals that there may be events to take.
    """

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        shared: Shared,
        login: Login,
        *,
        heartbeat: float,
        on_ready: Callable[[], None],
        may_leave_at: float = float("inf"),
    ) -> None:
        self._callbacks = shared.callbacks
        self._declarations = shared.declarations
        self._waker = shared.waker
        self._on_ready = on_ready
        self._patience = 2 * heartbeat
        #: When to stop waiting for the declares.
        self._begin_at = float("inf")
        #: When timeouts were last handled.
        self._ticked_at = float("inf")
        #: It was asked to end, so its end is not reported.
        self._unwanted = False
        self._error = ""
        self._ioloop = IOLoop()
        self._connection = self._connect(parameters)
        self._state = state = Readiness(shared.callbacks)
        self._declarer = Declarer(
            self._connection,
            shared.declarations,
            state.report_problem,
            self._declared,
        )
        self._channels = ChannelPool(
            self._connection,
            self._settle,
            state.report_problem,
            app_id=shared.app_id,
            topology=shared.topology,
        )
        self._connection.on_acks = self._channels.on_acks
        self._probe = Probe(self._connection)
        renewal = Renewal(
            self._connection,
            shared.logins,
            login,
            delay=shared.delay,
            report=partial(state.report_problem, "credentials"),
        )
        self._leaving = Leaving(self._channels, renewal, may_leave_at)

    @property
    def was_ready(self) -> bool:
        """Whether events could ever be published on it."""
        return self._state.was_ready

    @property
    def leaves(self) -> bool:
        """Whether the connection is ended on purpose."""
        return bool(self._leaving.because)

    @property
    def leaves_node(self) -> bool:
        """Whether that is to use another node."""
        return self._leaving.leaves_node

    @property
    def was_accepted(self) -> bool:
        """Whether a server has accepted the connection."""
        return self._connection.was_accepted

    def _connect(self, parameters: pika.ConnectionParameters) -> Connection:
        try:
            self._services = IOServices(self._ioloop)
            return Connection(
                parameters,
                on_open_callback=self._opened,
                on_open_error_callback=self._ended,
                on_close_callback=self._ended,
                custom_ioloop=self._services,
            )
        except BaseException:
            self._ioloop.close()
            raise

    def run(self) -> str:
        """Connect and serve until the connection ends; returns why it ended."""
        try:
            self._ioloop.add_handler(
                self._waker.open(), self._guarded(self._drain), IOLoop.READ
            )
            self._ioloop.start()
        except Exception as error:
            # pika does not handle an end at every point of its handshake.
            self._ended(None, error)
        finally:
            self._services.close_socket()
            self._ioloop.close()
        return self._error

    def _guarded(self, callback: Callable[[], None]) -> Callable[..., None]:
        """Wrap a callback of the loop: if *callback* raises, the connection ends.

        pika does the same for the callbacks of frames. So after any failure, the events
        in flight are settled.
        """

        def call(*_: object) -> None:
            try:
                callback()
            except Exception as error:
                self._state.is_ready = False
                self._connection.end(error)

        return call

    # What other threads call.

    def close(self) -> None:
        """Close the connection gracefully."""
        self._unwanted = True
        self._ioloop.add_callback_threadsafe(self._guarded(self._close))

    def abort(self) -> None:
        """End the connection without the closing handshake."""
        self._unwanted = True
        self._ioloop.add_callback_threadsafe(
            self._guarded(lambda: self._abort("it was aborted"))
        )

    # The connection's life.

    def _opened(self, _: object) -> None:
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._ticked_at = time.monotonic()
        # Those without a response are reported first.
        self._begin_at = self._ticked_at + STEP_TIMEOUT + _TICK
        for name, problem in self._declarations.left_out().items():
            self._state.report_problem(name, problem)
        self._declarer.go_on()
        self._tick()

    def _declared(self) -> None:
        if not self._state.is_ready:
            self._begin()

    def _begin(self) -> None:
        self._state.begin()
        self._on_ready()
        self._state.announce()
        self._drain()

    def _begin_without_answers(self) -> None:
        """Begin, at the latest now, although more is still to be declared."""
        if not self._state.is_ready and time.monotonic() >= self._begin_at:
            self._begin()

    def _on_blocked(self, _: object, frame: Any) -> None:
        self._state.block(str(frame.method.reason))

    def _on_unblocked(self, *_: object) -> None:
        self._state.unblock()
        self._drain()

    def _close(self) -> None:
        self._state.is_ready = False
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def _abort(self, reason: str) -> None:
        self._state.is_ready = False
        self._connection.end(AMQPConnectionError(reason))

    def _ended(self, _: object, error: BaseException) -> None:
        was_publishing, self._state.is_ready = self._state.is_ready, False
        error = self._connection.failure or error
        if is_unexpected(error) and not (self._unwanted or self._error):
            log_failure(Kind.BROKER_FAILED, error)
        self._error = self._leaving.because or explain(error)
        if accuses_an_event(error):
            self._declarations.blame(
                self._declarer.unanswered, self._error, is_sure=not was_publishing
            )
        self._channels.lose(self._error, suspect=accuses_an_event(error))
        self._ioloop.stop()

    # Publishing.

    def _drain(self) -> None:
        """Publish what can be sent, and serve the socket in between."""
        self._waker.clear()
        if not self._state.may_publish or self._leaving.because:
            return
        taken = self._callbacks.take(_TURN)
        if taken:
            with self._connection.corked():
                self._channels.publish(taken)
        if len(taken) == _TURN:
            self._waker.wake()

    def _settle(self, settlements: list[Settlement]) -> None:
        if settlements and self._callbacks.settle(settlements) and self._state.is_ready:
            self._waker.wake()
        if self._leaving.because and self._state.is_ready and self._channels.is_idle:
            self._close()

    # Timeouts.

    def _tick(self) -> None:
        """Handle timeouts, even if a wake-up or a response was missed."""
        if self._connection.is_closing or self._connection.is_closed:
            return
        if self._was_frozen():
            return
        self._declarer.give_up(STEP_TIMEOUT)
        self._begin_without_answers()
        if self._state.is_ready:
            self._channels.look_after()
            self._check_overdue()
            if self._leaving.is_due():
                self._close()
            self._drain()
        self._ioloop.call_later(_TICK, self._guarded(self._tick))

    def _was_frozen(self) -> bool:
        """Whether this process was stopped for so long that the connection is lost.

        The broker closes a connection that is silent for two heartbeats. What it sends
        then may not reach a sleeping machine.
        """
        ticked_at, self._ticked_at = self._ticked_at, time.monotonic()
        stopped = self._ticked_at - ticked_at
        if stopped <= self._patience:
            return False
        self._abort(f"this process was stopped for {stopped:.0f} s")
        return True

    def _check_overdue(self) -> None:
        """Abort the connection if the broker has stopped confirming altogether.

        A broker that hangs may still answer heartbeats, or its kernel may still accept
        what is written. A broker that has reported that it is blocked is only slow. A
        single queue that hangs is no reason to end the connection for all others, so
        the broker is probed in a way that involves no queue.
        """
        since = self._channels.silent_since
        if since is None or self._state.is_blocked:
            return
        waited = time.monotonic() - max(since, self._state.unblocked_at)
        if waited > self._patience / 2:
            self._probe.ask()
        if waited > self._patience and not self._probe.was_answered_after(
            max(since, self._state.unblocked_at)
        ):
            self._abort(f"no confirm arrived for {waited:.0f} s")
