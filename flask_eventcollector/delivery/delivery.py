"""The way of a batch: to the broker, else into the backlog."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from ..errors import BacklogFull
from ..events import BrokerState, DeadEvent, Event, Outcome, PublishResult, Stats
from .broker import Broker
from .entries import NEVER_PUBLISHED, Entry, Settlement, Waiter
from .ledger import Ledger
from .log import ThrottledLog
from .notifier import Notifier
from .periodic_worker import TICK, PeriodicWorker
from .store import Store
from .threads import holds, is_own_thread

#: Seconds that the last write to the disk may take, however late it is.
_LAST_WRITE = 0.5

_TOO_LATE = "the process ended before the broker had confirmed it"


class Delivery:
    """Publishes events, retains what is not confirmed, and sends it later.

    One for each app and process. Its threads start on the first use.
    """

    def __init__(
        self,
        ledger: Ledger,
        broker: Broker,
        backlog: Store,
        notifier: Notifier,
        log: ThrottledLog,
        *,
        confirm_timeout: float,
        name: str,
        background: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._ledger = ledger
        self.broker = broker
        self._store = backlog
        self._notifier = notifier
        self._log = log
        self._confirm_timeout = confirm_timeout
        #: Takes care of what is enqueued in the flusher's thread.
        self._background = background
        self._flusher = PeriodicWorker(
            self._run_once, self._on_stop, f"eventcollector-flusher-{name}"
        )
        #: One thread at a time tells news, so that they are told in order.
        self._notifying = threading.RLock()
        self._notified = 0
        self._starting = threading.RLock()
        self._started = False
        self._closed = False

    # What collectors call.

    def collect(self, entries: list[Entry], event: Event) -> None:
        """Put *event* into a collector's *entries*; never blocks.

        Raises :class:`BacklogFull` at a limit, if ``OVERFLOW`` is ``"reject"``.
        """
        self.start()
        taken, notices = self._ledger.collect(entries, event)
        if not taken:
            raise BacklogFull(
                f"the event for {event.target_queue!r} was refused: this process holds"
                " as many events or bytes as EVENTCOLLECTOR_MAX_EVENTS and"
                " EVENTCOLLECTOR_MAX_BYTES allow; raise them, or see events.stats()"
                " for what is waiting"
            )
        self._notifier.notify_enqueued(event)
        self._notifier.notify(notices)

    def publish(
        self, entries: list[Entry], timeout: float | None = None
    ) -> PublishResult:
        """Hand over *entries* and wait for the confirms.

        With ``None`` that takes at most ``CONFIRM_TIMEOUT`` seconds, and no time while
        the broker is away. A caller that names a *timeout* waits until each event is
        confirmed or refused, also while the broker is away.
        """
        if self._ledger.is_in_step or is_own_thread():
            return self._publish_later(entries)
        waiter = Waiter(patient=timeout is not None)
        if timeout is None:
            timeout = self._confirm_timeout
        try:
            self._ledger.hand_over(entries, waiter)
            if not self._confirm_timeout:
                # Nobody waits for the broker, so nothing but the disk makes it safe.
                self._store.persist(waiter.entries)
            self.broker.wake()
            ran_out = not waiter.done.wait(timeout) and timeout > 0
            result = self._ledger.stop_waiting(waiter, ran_out=ran_out)
            self._store.persist(waiter.entries)
        except BaseException:
            # A worker that is told to stop: no user code now.
            self._ledger.stop_waiting(waiter, ran_out=False)
            self._ledger.defer(waiter.notices)
            raise
        self._notifier.notify(waiter.notices)
        return result

    def _publish_later(self, entries: list[Entry]) -> PublishResult:
        """Hand over *entries* where a wait would be a wait for oneself.

        That is in one of our own threads, or where a destructor or a signal handler has
        interrupted a step of the ledger.
        """
        retained = len(entries)
        self.hand_over(entries)
        return PublishResult(retained=retained)

    def hand_over(self, entries: list[Entry]) -> None:
        """Hand over *entries* without waiting; the flusher tells what becomes of it."""
        self._ledger.hand_over(entries)
        self.broker.wake()

    def discard(self, entries: list[Entry], reason: str) -> int:
        """Throw away *entries*; returns how many."""
        notices = self._ledger.discard(entries, reason)
        self._notifier.notify(notices)
        return len(notices)

    def abandon(self, entries: list[Entry]) -> None:
        """Throw away *entries* soon. Takes no lock, so a destructor may call it."""
        self._ledger.abandon(entries)

    # What people call.

    def flush(self, timeout: float) -> bool:
        """Try to deliver all that was handed over, within *timeout* seconds.

        Returns whether it worked; it ends early when the broker has refused the rest.
        """
        if self._ledger.is_in_step or is_own_thread():
            return False
        deadline = time.monotonic() + timeout
        self._store.scan(timeout)
        self._ledger.reopen()
        self.broker.reconnect_now()
        self.broker.wake()
        return self._ledger.wait_until_flushed(deadline)

    def wait_until_flushed(self, timeout: float) -> bool:
        """Wait as a flush does, without another try of what was refused."""
        return self._ledger.wait_until_flushed(time.monotonic() + timeout)

    def close(self, timeout: float, *, reconnect: bool = True) -> bool:
        """Deliver what can be delivered within *timeout* seconds, then stop.

        Returns whether everything was delivered. What is left stays on disk, where the
        backlog is a spool, and is dropped, counted and logged where it is memory.
        Without *reconnect* only what is under way may finish.
        """
        if self._ledger.is_in_step:
            return False
        deadline = time.monotonic() + timeout
        if self._close_once():
            self._shut_down(deadline, reconnect=reconnect)
        return self._take_leave()

    def stats(self) -> Stats:
        """The books; never blocks."""
        self._notifier.notify(self._ledger.discard_abandoned())
        return replace(self._ledger.stats(), **self._store.figures())

    def collected(self, entries: list[Entry]) -> tuple[Event, ...]:
        """The events in a collector's *entries*."""
        return self._ledger.collected(entries)

    def is_collected(self, event: Event) -> bool:
        """Whether a collector still holds *event*."""
        return self._ledger.is_collected(event)

    def dead(self) -> tuple[DeadEvent, ...]:
        """What was set aside."""
        return self._ledger.dead()

    def retry(self, ids: Iterable[str] | None) -> int:
        """Send dead events again; returns how many."""
        count = self._ledger.retry(ids)
        self.broker.wake()
        return count

    def purge(self, ids: Iterable[str]) -> int:
        """Drop events that are dead or retained; returns how many."""
        notices = self._ledger.purge(ids)
        self._notifier.notify(notices)
        return len(notices)

    def notify_pending(self, timeout: float = threading.TIMEOUT_MAX) -> int:
        """Tell, in this thread, what became of events while nobody waited for them.

        Waits at most *timeout* seconds for another thread that is telling. Returns how
        many news were ever told here: as long as it grows, there is more to come.
        """
        if self._notifying.acquire(timeout=timeout):
            try:
                notices = self._ledger.discard_abandoned()
                notices += self._ledger.take_deferred()
                self._notifier.notify(notices)
                self._notifier.quarantined(self._store.take_quarantined())
                self._notified += len(notices)
            finally:
                self._notifying.release()
        return self._notified

    def request_stop(self) -> None:
        """Stop within a second. Takes no lock, so a destructor may call it."""
        self._flusher.request_stop()

    # What the broker calls: no user code, nothing that blocks.

    def take(self, limit: int) -> list[Entry]:
        """See :class:`~flask_eventcollector.brokers.BrokerCallbacks`."""
        return self._ledger.take(limit)

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        """See :class:`~flask_eventcollector.brokers.BrokerCallbacks`."""
        settlements = list(settlements)
        more = self._ledger.settle(settlements)
        failed = any(s.outcome is not Outcome.CONFIRMED for s in settlements)
        if failed or self._ledger.has_deferred:
            # There is something to tell, or a next try to wait for.
            self._flusher.wake()
        if self._ledger.unerased:
            self._store.wake()
        return more

    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        """See :class:`~flask_eventcollector.brokers.BrokerCallbacks`."""
        self._ledger.on_state_change(state, error, final=final)
        self._flusher.wake()

    # The two ends of its life, and the flusher's work in between.

    def start(self) -> None:
        """Start the threads and the first connection, once; waits for nothing."""
        if not self._started:
            self._start()

    def _start(self) -> None:
        if holds(self._starting):
            # A destructor, in the middle of the start.
            return
        with self._starting:
            if self._started or self._closed:
                return
            # Each may be started again, in case that this was cut short in between.
            self.broker.start(self)
            self._flusher.start()
            self._store.start(self.broker.wake)
            self._started = True

    # The end: by close(), or when the app is gone.

    def _close_once(self) -> bool:
        """Whether nobody else has begun to close."""
        with self._starting:
            was_closed, self._closed = self._closed, True
        return not was_closed

    def _shut_down(self, deadline: float, *, reconnect: bool) -> None:
        self._notifier.notify(self._ledger.discard_collected(NEVER_PUBLISHED))
        # Before the flush: the process may be killed in the middle of it.
        self._store.persist_all()
        self._last_flush(deadline, reconnect=reconnect)
        self._stop(deadline)

    def _last_flush(self, deadline: float, *, reconnect: bool) -> None:
        if reconnect:
            self.flush(deadline - time.monotonic())
            return
        state = self._ledger.stats().broker
        if state.is_connected or state is BrokerState.CONNECTING:
            # What is under way may still be confirmed.
            self._ledger.wait_until_flushed(deadline)

    def _stop(self, deadline: float) -> None:
        self.broker.close(max(0.0, deadline - time.monotonic()))
        self._ledger.on_state_change(BrokerState.CLOSED)
        self._flusher.stop(max(0.1, deadline - time.monotonic()))
        self._store.close(max(_LAST_WRITE, deadline - time.monotonic()))
        # The flusher is gone, and the backlog was at work until now.
        self._notifier.quarantined(self._store.take_quarantined())

    def _take_leave(self) -> bool:
        """Drop and count what is neither delivered nor on disk; whether none was."""
        self._notifier.notify(self._ledger.discard_collected(NEVER_PUBLISHED))
        # The events that are retained so far, before they are dropped.
        self._log.log_suppressed(at_last=True)
        left = self._ledger.drop_all(_TOO_LATE)
        self._notifier.notify(left)
        self._log.left(self.stats())
        self._log.log_suppressed(at_last=True)
        return not (left or self._ledger.undelivered())

    # The flusher's work.

    def _run_once(self) -> float:
        """One round of the flusher; returns the seconds until the next."""
        with self._background():
            self.notify_pending()
            stats = self.stats()
            self._log.broker(stats)
            self._log.spool(stats)
            self._log.log_suppressed()
        due = self._ledger.due()
        if due is None:
            return TICK
        if due <= 0:
            self.broker.wake()
        return due

    def _on_stop(self) -> None:
        """The flusher ends: somebody closes, or the app is gone."""
        self.notify_pending()
        if self._close_once():
            self._shut_down(time.monotonic(), reconnect=False)
            self._take_leave()
