"""The thread that owns the connection to RabbitMQ, and restores it when it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import pika

from ...config.broker_url import BrokerURL
from ...config.credentials import CredentialsSource
from ...config.tls import Passphrase
from ...config.topology import Topology
from ...delivery.broker import IN_USE, BrokerCallbacks, CallbackRelay
from ...delivery.records import Kind, log_failure
from ...delivery.threads import OwnThread
from ...errors import ConfigurationError
from ...events import BrokerState
from ...messages.amqp_fields import fitting_name
from .declarations import Declarations
from .logins import Login, Logins
from .pacing import Pacing
from .parameters import attempts
from .pika_logging import silence_pika_in_this_thread
from .reasons import explain
from .session import Session, Shared
from .waker import Waker

#: Seconds on a node before it may be left for another, at first and at most.
_LEAST_STAY, _LONGEST_STAY = 10.0, 600.0
#: Seconds beyond that after which leaving has helped.
_HELPED_AFTER = 300.0
#: Seconds for the thread to end after its connection was aborted.
_ABORT_TIMEOUT = 0.2


class RabbitMQBroker:
    """Keeps one connection to one of several RabbitMQ nodes.

    Its thread is the only one that touches pika; it starts with the first event. No
    disk, database, signal or user code runs on it.
    """

    def __init__(
        self,
        urls: Sequence[BrokerURL],
        *,
        heartbeat: float,
        delay: Callable[[int], float],
        name: str,
        topology: Topology = Topology(),  # noqa: B008 (it can't be changed)
        credentials: CredentialsSource | None = None,
        keyfile_password: Passphrase | None = None,
    ) -> None:
        self._urls = list(urls)
        self._heartbeat = heartbeat
        self._pacing = Pacing(delay)
        self._name = name
        self._logins = Logins(credentials, keyfile_password, name)
        self._waker = Waker()
        self.relay = CallbackRelay()
        self._shared = Shared(
            callbacks=self.relay,
            declarations=Declarations(topology),
            topology=topology,
            app_id=fitting_name(name),
            waker=self._waker,
            logins=self._logins,
            delay=delay,
        )
        self._session: Session | None = None
        #: Seconds on a node before it may be left for another, and since when.
        self._stay = _LEAST_STAY
        self._left_at = float("-inf")
        #: Whether the last connection was ended on purpose, and for another node.
        self._is_leaving = self._is_leaving_node = False
        self._is_closing = False
        self._thread = OwnThread(self._run, f"eventcollector-io-{name}")

    def __repr__(self) -> str:
        return f"<RabbitMQBroker {'; '.join(map(str, self._urls))}>"

    def start(self, callbacks: BrokerCallbacks) -> None:
        """Start to connect, unless it was started already; does not wait.

        :raises RuntimeError: no thread can be started; the next call tries again.
        """
        if not self._thread.was_started:
            self.relay.target = callbacks
            self.relay.on_state_change(BrokerState.CONNECTING)
            try:
                self._thread.start()
            except RuntimeError as error:
                problem = f"its thread could not be started: {error}"
                self.relay.on_state_change(BrokerState.DOWN, problem)
                raise

    def wake(self) -> None:
        """There may be events to take; does not wait."""
        self._waker.wake()

    def reconnect_now(self) -> None:
        """Connect now, regardless of the backoff; does not wait."""
        self._pacing.retry_now()

    def reconnect_soon(self, seconds: float = IN_USE) -> None:
        """Try every 1 to 1.5 s, for so many *seconds*; does not wait."""
        self._pacing.retry_soon(seconds)

    def close(self, timeout: float) -> bool:
        """Close the connection and end the thread, within *timeout* seconds."""
        deadline = time.monotonic() + timeout
        self._is_closing = True
        self._pacing.retry_now()
        self._logins.stop()
        if not self._thread.is_alive:
            return True
        self._end_session(Session.close, deadline)
        self._end_session(Session.abort, time.monotonic() + _ABORT_TIMEOUT)
        return not self._thread.is_alive

    def _closing(self) -> bool:
        return self._is_closing

    def _end_session(self, end: Callable[[Session], None], deadline: float) -> None:
        session = self._session
        if session is not None:
            end(session)
        self._thread.join(max(0.0, deadline - time.monotonic()))

    # Below: the thread.

    def _run(self) -> None:
        silence_pika_in_this_thread()
        try:
            while not self._closing():
                self._run_guarded()
        finally:
            if not self._closing():
                # Something like SystemExit: nothing else would tell.
                problem = "its thread has ended: restart the process"
                self.relay.on_state_change(BrokerState.DOWN, problem)

    def _run_guarded(self) -> None:
        try:
            self._keep_connected()
        except Exception as error:
            with suppress(Exception):
                log_failure(Kind.THREAD_FAILED, error, thread=self._thread.name)
                self.relay.on_state_change(BrokerState.DOWN, explain(error))
            self._pacing.pause(1)

    def _keep_connected(self) -> None:
        failures = 0
        while not self._closing():
            self._pacing.begin()
            was_ready, error = self._round()
            if self._closing():
                return
            failures = 1 if was_ready else failures + 1
            self._report_end(error)
            if not self._is_leaving_node:
                # New credentials, too, may be needed by many processes at once.
                self._pacing.pause(failures)

    def _report_end(self, error: str) -> None:
        is_planned = self._is_leaving and not self._is_leaving_node
        state = BrokerState.CONNECTING if is_planned else BrokerState.DOWN
        self.relay.on_state_change(state, error)

    def _round(self) -> tuple[bool, str]:
        """Try each node until one works; returns whether one did, and the error."""
        error = ""
        self._is_leaving = self._is_leaving_node = False
        try:
            login = self._logins.get()
        except ConfigurationError as problem:
            return False, str(problem)
        for url in list(self._urls):
            was_ready, error = self._try(url, login)
            error = f"{_node(url)}: {error}"
            if was_ready:
                # The next round begins with the node after this one.
                place = self._urls.index(url) + 1
                self._urls = self._urls[place:] + self._urls[:place]
                return True, error
        return False, error

    def _try(self, url: BrokerURL, login: Login) -> tuple[bool, str]:
        """Use one of the node's addresses; otherwise return why that failed."""
        error = ""
        heartbeat = url.number("heartbeat") or self._heartbeat
        try:
            for parameters in attempts(url, heartbeat, self._name, login):
                was_ready, error = self._serve(parameters, heartbeat, login, _node(url))
                if was_ready:
                    return True, error
        except Exception as problem:
            # From the resolver, a TLS file or, at exit, a thread that pika can't start.
            error = explain(problem)
            # A wrong passphrase is not used again.
            login.was_used |= isinstance(problem, ConfigurationError)
        return False, error

    def _serve(
        self,
        parameters: pika.ConnectionParameters,
        heartbeat: float,
        login: Login,
        node: str,
    ) -> tuple[bool, str]:
        if self._closing():
            return False, ""
        self._session = session = Session(
            parameters,
            self._shared,
            login,
            heartbeat=heartbeat,
            on_ready=lambda: self.relay.connected(node),
            may_leave_at=self._may_leave_at(),
        )
        if self._closing():
            # A close() just before this found no session to close.
            session.close()
        try:
            error = session.run()
        finally:
            self._session = None
            login.was_used |= session.was_accepted
        self._is_leaving = session.leaves
        self._is_leaving_node = session.leaves_node
        if self._is_leaving_node:
            self._note_leaving(time.monotonic())
        return session.was_ready, error

    def _may_leave_at(self) -> float:
        """When a node may be left for another, if there is one."""
        if len(self._urls) == 1:
            return float("inf")
        return self._left_at + self._stay

    def _note_leaving(self, now: float) -> None:
        """Stay longer each time, if leaving did not help: the queue may be full."""
        helped = now - self._left_at > self._stay + _HELPED_AFTER
        self._stay = _LEAST_STAY if helped else min(2 * self._stay, _LONGEST_STAY)
        self._left_at = now


def _node(url: BrokerURL) -> str:
    return f"{url.host}:{url.port}"
