"""The thread that keeps the process connected to RabbitMQ."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pika

from ...config.broker_url import BrokerURL
from ...delivery.broker import BrokerCallbacks, CallbackRelay
from ...events import BrokerState
from .parameters import attempts
from .pika_logging import restore_pika_in_this_thread, silence_pika_in_this_thread
from .reasons import explain
from .session import Queues, Session

#: Seconds that the thread may take to end after its connection was aborted.
_ABORT_TIMEOUT = 0.2


class RabbitMQBroker:
    """Keeps one connection to one of several RabbitMQ nodes.

    Only its thread uses pika. The thread starts with the first event. It does no disk
    or database I/O, sends no signals and runs no user code.
    """

    def __init__(
        self,
        urls: Sequence[BrokerURL],
        *,
        queues: Queues,
        heartbeat: float,
        delay: Callable[[int], float],
        name: str,
    ) -> None:
        self._urls = list(urls)
        self._queues = queues
        self._heartbeat = heartbeat
        self._delay = delay
        self._name = name
        self.relay = CallbackRelay()
        self._session: Session | None = None
        self._closing = threading.Event()
        self._retry_now = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"eventcollector-io-{name}", daemon=True
        )

    def __repr__(self) -> str:
        return f"<RabbitMQBroker {'; '.join(map(str, self._urls))}>"

    def start(self, callbacks: BrokerCallbacks) -> None:
        """Start to connect, unless already started; does not wait."""
        if self._thread.ident is None:
            self.relay.target = callbacks
            self.relay.on_state_change(BrokerState.CONNECTING)
            self._thread.start()

    def wake(self) -> None:
        """There may be events to take; does not wait."""
        session = self._session
        if session is not None:
            session.wake()

    def reconnect_now(self) -> None:
        """Connect now, without waiting for the backoff; does not wait."""
        self._retry_now.set()

    def close(self, timeout: float) -> bool:
        """Close the connection and end the thread, within *timeout* seconds."""
        deadline = time.monotonic() + timeout
        self._closing.set()
        self._retry_now.set()
        if not self._thread.is_alive():
            return True
        self._end_session(Session.close, deadline)
        self._end_session(Session.abort, time.monotonic() + _ABORT_TIMEOUT)
        return not self._thread.is_alive()

    def _end_session(self, end: Callable[[Session], None], deadline: float) -> None:
        session = self._session
        if session is not None:
            end(session)
        if self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))

    # The methods below run in the thread.

    def _run(self) -> None:
        silence_pika_in_this_thread()
        try:
            self._keep_connected()
        finally:
            restore_pika_in_this_thread()

    def _keep_connected(self) -> None:
        failures = 0
        while not self._closing.is_set():
            # Cleared before connecting: a request that arrives meanwhile is kept.
            self._retry_now.clear()
            was_ready, error = self._try_each_node()
            if self._closing.is_set():
                return
            failures = 1 if was_ready else failures + 1
            self.relay.on_state_change(BrokerState.DOWN, error)
            self._retry_now.wait(self._delay(failures))

    def _try_each_node(self) -> tuple[bool, str]:
        """Try each node until one accepts the connection, and serve that connection.

        Returns whether it was ever ready, and the error that ended it.
        """
        error = ""
        for url in list(self._urls):
            was_ready, error = self._connect(url)
            error = f"{url.host}:{url.port}: {error}"
            if was_ready:
                # The next attempt starts with the node after this one.
                following = self._urls.index(url) + 1
                self._urls = self._urls[following:] + self._urls[:following]
                return True, error
        return False, error

    def _connect(self, url: BrokerURL) -> tuple[bool, str]:
        """Try each address of a node; returns the same as :meth:`_try_each_node`."""
        error = ""
        try:
            for parameters in attempts(url, self._heartbeat, self._name):
                was_ready, error = self._serve(parameters)
                if was_ready:
                    return True, error
        except Exception as problem:
            # From the resolver, a TLS file or, at exit, a thread that can't start.
            error = explain(problem)
        return False, error

    def _serve(self, parameters: pika.ConnectionParameters) -> tuple[bool, str]:
        if self._closing.is_set():
            return False, ""
        self._session = session = Session(
            parameters,
            self.relay,
            queues=self._queues,
            heartbeat=self._heartbeat,
            app_id=self._name,
        )
        if self._closing.is_set():
            # A close just before found no session to close.
            session.close()
        try:
            error = session.run()
        finally:
            self._session = None
        return session.was_ready, error
