"""Takes a batch to the broker, or retains it in the backlog."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from ..errors import BacklogFull
from ..events import BrokerState, DeadEvent, Event, Outcome, PublishResult, Stats
from ..messages.encoding import Ids
from .batches import label
from .broker import Broker
from .entries import (
    ABANDONED,
    ENDED,
    LATE,
    NEVER_PUBLISHED,
    Entry,
    Notice,
    Settlement,
    State,
    Waiter,
)
from .ledger import Ledger
from .limits import Limits
from .log import ThrottledLog
from .notifier import Notifier
from .observations import Happened, Observations
from .periodic_worker import TICK, PeriodicWorker
from .refusals import Refusal
from .startup import Startup
from .store import Store, TransactionStore
from .teller import Teller
from .threads import call_holding, holds, is_own_thread

#: Seconds that the last write to the disk may take, however late it is.
_LAST_WRITE = 0.5
#: Seconds that the observers have to take note of the end.
_LAST_WORD = 0.5


class Delivery:
    """Publishes events, retains those that are not confirmed, and retries them.

    There is one for each app and process. Its threads start on first use.
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
        reconnect_timeout: float = 0.0,
        name: str,
        background: Callable[[], AbstractContextManager[None]] = nullcontext,
        observations: Observations | None = None,
        is_volatile: bool = False,
        batch_headers: bool = False,
    ) -> None:
        self._ledger = ledger
        #: Whether events get headers about their batch.
        self._has_batch_headers = batch_headers
        #: Whether what waits ends with the process, which the log says if it matters.
        self._is_volatile = is_volatile
        self.broker = broker
        #: Of the events of this process.
        self.ids = Ids()
        self._store = backlog
        #: Where the events of transactions are written; ``None``: nowhere.
        self.outbox: TransactionStore | None = None
        self._notifier = notifier
        #: What the observers are told; ``None``: there are none.
        self._observations = observations
        self._log = log
        #: How long a caller without a timeout waits.
        self._timeout = max(confirm_timeout, reconnect_timeout)
        self._is_patient = reconnect_timeout > 0
        #: The scope of events that are enqueued in the flusher's thread.
        self._background = background
        self._flusher = PeriodicWorker(
            self._run_once,
            self._on_stop,
            f"eventcollector-flusher-{name}",
            calls_user_code=True,
        )
        self._teller = Teller(ledger, notifier, backlog)
        self._startup = Startup(log)
        #: Held during the shutdown.
        self._closing = threading.RLock()
        #: Whether a shutdown has come to its end: nothing is delivered any more.
        self._is_over = False
        #: How many events in each store the log has told of at the end.
        self._left = Counter[str]()

    # What collectors call.

    def collect(
        self,
        entries: list[Entry],
        event: Event,
        also_in: list[Entry] | None = None,
        *,
        is_kept: bool = False,
    ) -> None:
        """Put *event* into a collector's *entries*; never blocks.

        :param also_in: the list of the transaction that the event belongs to.
        :param is_kept: whether its commit writes the event into the outbox, if there is
            one here.

        :raises BacklogFull: a limit is reached and ``OVERFLOW`` is ``"reject"``.
        """
        if also_in is None or self.outbox is None or self.outbox.sends:
            self.start()
        else:
            # Another process will send it, so this one needs no connection.
            self._startup.run(self._start_background, is_all=False)
        notices: list[Notice] = []
        # The same session may be bound for another app, which has an outbox.
        is_kept &= self.outbox is not None
        try:
            if not self._ledger.collect(
                entries, event, also_in=also_in, is_kept=is_kept, into=notices
            ):
                raise _backlog_full(event)
            if self._is_over:
                self._log.enqueued_late(event)
            if self._observations is not None:
                self._observations.note_event(Happened.ENQUEUED, event)
            self._notifier.notify_enqueued(event)
            self._notifier.notify(notices)
        except BaseException:
            self._ledger.defer(notices)
            raise

    def replace(self, entry: Entry, event: Event) -> bool:
        """Put *event* into the place of what a collector holds; never blocks.

        Returns whether that was possible.
        """
        with self._teller.telling() as notices:
            replaced = self._ledger.replace(entry, event, into=notices)
            if replaced:
                self._notifier.notify_enqueued(event)
        return replaced

    def coalesce(self, entries: list[Entry]) -> None:
        """Keep one of the *entries* with the same key, in the place of the first."""
        if any(entry.rare is not None for entry in entries):
            with self._teller.telling() as notices:
                self._ledger.coalesce(entries, into=notices)

    def label(self, entries: Iterable[Entry]) -> None:
        """Give *entries*, as one batch, headers that tell of it, if a setting says so.

        Those that a transaction has written before belong to another one.
        """
        if self._has_batch_headers:
            collected = self._ledger.still_collected(entries)
            label([entry for entry in collected if entry.row is None])

    def still_collected(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of *entries* that a collector still holds."""
        return self._ledger.still_collected(entries)

    def publish(
        self, entries: list[Entry], timeout: float | None = None
    ) -> PublishResult:
        """Hand over *entries* and wait for the confirms.

        With ``None``, waits at most ``CONFIRM_TIMEOUT`` seconds, and not at all while
        the broker is unreachable. A caller that passes a *timeout* in seconds waits
        until each event is confirmed or refused, even while it is unreachable; so does
        every caller with ``RECONNECT_TIMEOUT``.
        """
        if self._ledger.is_in_step or is_own_thread():
            return self._publish_later(entries)
        is_patient = self._is_patient or timeout is not None
        waiter = Waiter(patient=is_patient, caller=self._caller())
        timeout = self._timeout if timeout is None else timeout
        try:
            self.label(entries)
            self._ledger.hand_over(entries, waiter)
            if self._is_over:
                self._account_for_late(waiter.entries)
            if not self._timeout:
                # No caller waits for the broker, so only the disk makes the events
                # safe.
                self._store.persist(waiter.entries)
            self._send(waiter.entries)
            if waiter.patient and timeout:
                self.broker.reconnect_now()
                self.broker.reconnect_soon(timeout)
            ran_out = not self._wait(waiter, timeout) and timeout > 0
            result = self._ledger.stop_waiting(waiter, ran_out=ran_out)
            self._store.persist(waiter.entries)
            self._notifier.notify(waiter.notices)
            if not result.complete:
                self._let_go(waiter)
            return result
        except BaseException:
            # The worker was asked to stop, so no user code may run now.
            self._ledger.stop_waiting(waiter, ran_out=False)
            self._ledger.defer(waiter.notices)
            self._let_go(waiter)
            raise

    def _let_go(self, waiter: Waiter) -> None:
        self._ledger.let_go(waiter)
        if self._ledger.has_deferred:
            self._flusher.wake()

    def _caller(self) -> object:
        """The caller's trace; ``None``: it does not matter."""
        if self._observations is None or self._observations.caller is None:
            return None
        return self._observations.caller()

    def _wait(self, waiter: Waiter, timeout: float) -> bool:
        """Wait at most *timeout* seconds; returns whether it was for long enough."""
        if self._observations is None or not timeout:
            return waiter.done.wait(timeout)
        begun = time.monotonic()
        done = waiter.done.wait(timeout)
        self._observations.note_other(Happened.WAITED, time.monotonic() - begun)
        return done

    def _publish_later(self, entries: list[Entry]) -> PublishResult:
        """Hand over *entries* without waiting, where waiting would deadlock.

        That is in one of the library's own threads, or where a destructor or a signal
        handler has interrupted a step of the ledger.
        """
        retained = len(entries)
        self.hand_over(entries)
        return PublishResult(retained=retained)

    def hand_over(self, entries: list[Entry]) -> None:
        """Hand over *entries* without waiting; the flusher reports the outcomes."""
        handed_over = list(entries)
        self.label(entries)
        self._ledger.hand_over(entries)
        if self._is_over and not self._ledger.is_in_step:
            self._account_for_late(handed_over)
        self._send(handed_over)

    def _send(self, entries: Sequence[Entry]) -> None:
        if entries:
            # Done before, unless the outbox of another process was to send them.
            self.start()
        self.broker.wake()
        if self._ledger.is_timed:
            # It keeps the time.
            self._flusher.wake()
        if entries:
            self.broker.reconnect_soon()

    def note_use(self) -> None:
        """What waits should not wait for an idle process's backoff.

        The process is in use, or another one has connected. Takes no lock, and does not
        wait.
        """
        if self._ledger.needs_connection:
            self.broker.reconnect_soon()

    def discard(self, entries: list[Entry], reason: str) -> int:
        """Discard *entries*; returns how many."""
        with self._teller.telling() as notices:
            return self._ledger.discard(entries, reason, into=notices)

    def warn_of_unpublished(self, entries: list[Entry], reason: str) -> None:
        """Log that *entries* are still collected although their work has ended."""
        self._log.unpublished(self._ledger.collected(entries), reason)

    def watch(
        self, owner: object, entries: list[Entry], reason: str = ABANDONED
    ) -> None:
        """Discard *entries* once *owner* is deleted."""
        self._ledger.watch(owner, entries, reason)

    # What the application calls.

    def flush(self, timeout: float) -> bool:
        """Try to deliver everything that was handed over, within *timeout* seconds.

        Returns whether everything was delivered. Returns early once the broker has
        refused everything that is left.
        """
        if self._ledger.is_in_step or is_own_thread():
            return False
        deadline = time.monotonic() + timeout
        all_known = self._retry_now(timeout)
        return self._ledger.wait_until_flushed(deadline) and all_known

    def _retry_now(self, timeout: float) -> bool:
        """Retry all waiting events, and look for events of dead processes.

        Waits at most *timeout* seconds; returns whether the latter are known.
        """
        all_known = self._store.scan(timeout)
        self._ledger.reopen()
        self.broker.reconnect_now()
        self.broker.reconnect_soon(timeout)
        self.broker.wake()
        return all_known

    def is_at_rest(self) -> bool:
        """Whether nothing is left, or the broker has refused all that is left."""
        return self._ledger.is_at_rest()

    def wait_until_flushed(self, timeout: float) -> bool:
        """Wait as :meth:`flush` does, without retrying what was refused."""
        return self._ledger.wait_until_flushed(time.monotonic() + timeout)

    def close(self, timeout: float, *, reconnect: bool = True) -> bool:
        """Deliver what can be delivered within *timeout* seconds, then stop.

        Returns whether everything was delivered. The rest stays on disk if the backlog
        is a spool. If it is memory, the rest is dropped, counted and logged. Without
        *reconnect*, no new connection is made.
        """
        if self._ledger.is_in_step or holds(self._closing):
            return False
        deadline = time.monotonic() + timeout
        all_known: list[bool] = []

        def shut_down() -> None:
            all_known.append(self._shut_down_once(deadline, reconnect=reconnect))

        call_holding(self._closing, timeout, shut_down)
        return self._account_for_rest() and all(all_known)

    @property
    def limits(self) -> Limits:
        """The limits of this process."""
        return self._ledger.limits

    def stats(self) -> Stats:
        """The counts of this process; never blocks."""
        with self._teller.telling() as notices:
            self._ledger.discard_abandoned(into=notices)
        return self._all_figures()

    def _all_figures(self) -> Stats:
        return replace(self._figures(), **self._ledger.problems())

    def _figures(self) -> Stats:
        return replace(self._ledger.stats(), **self._store.figures())

    def collected(self, entries: list[Entry]) -> tuple[Event, ...]:
        """The collected events among a collector's *entries*."""
        return self._ledger.collected(entries)

    def states(self, ids: Iterable[str]) -> dict[str, State]:
        """The states of those of the events with *ids* that are held, by id."""
        return self._ledger.states(ids)

    def dead(self) -> tuple[DeadEvent, ...]:
        """The dead-lettered events."""
        return self._ledger.dead()

    def held(self) -> tuple[list[Entry], list[Refusal]]:
        """What is handed over or dead, oldest first, and what was refused last.

        The states and attempts of these entries go on changing.
        """
        return self._ledger.handed_over(), self._ledger.refusals(None, -1)[1]

    def retry(self, ids: Iterable[str] | None) -> int:
        """Send dead events again; returns how many."""
        count = self._ledger.retry(ids)
        if self.outbox is not None:
            self.outbox.look()
        self.broker.wake()
        self.note_use()
        return count

    def redirect(self, ids: Iterable[str], queue: str) -> int:
        """Send events that are dead or waiting to *queue* instead; returns how many."""
        count = self._ledger.redirect(ids, queue)
        self.broker.wake()
        self.note_use()
        return count

    def end_delays(self) -> int:
        """Send all delayed events now; returns how many."""
        count = self._ledger.end_delays()
        self.broker.wake()
        return count

    def purge(self, ids: Iterable[str]) -> int:
        """Drop events that are dead or waiting; returns how many."""
        with self._teller.telling() as notices:
            return self._ledger.purge(ids, into=notices)

    def notify_pending(self, timeout: float = threading.TIMEOUT_MAX) -> int:
        """Dispatch, in this thread, the notices that no caller is waiting for.

        Waits at most *timeout* seconds for another thread that is dispatching. Returns
        how many notices were ever dispatched here: while it grows, more may follow.
        """
        return self._teller.tell_pending(timeout)

    def request_stop(self) -> None:
        """Stop within a second. Takes no lock, so a destructor may call it."""
        self._flusher.request_stop()
        if self._observations is not None:
            self._observations.request_stop()

    # What the broker calls. No user code runs here, and nothing blocks.

    def take(self, limit: int) -> list[Entry]:
        """See :class:`~flask_eventcollector.delivery.broker.BrokerCallbacks`."""
        taken = self._ledger.take(limit)
        if taken and self.outbox is not None:
            self.outbox.sending(taken)
        return taken

    def settle(self, settlements: Iterable[Settlement]) -> bool:
        """See :class:`~flask_eventcollector.delivery.broker.BrokerCallbacks`."""
        settlements = list(settlements)
        more = self._ledger.settle(settlements)
        failed = any(s.outcome is not Outcome.CONFIRMED for s in settlements)
        if failed or self._ledger.has_deferred:
            # There are notices to dispatch, or a retry to schedule.
            self._flusher.wake()
        if self._ledger.unerased:
            self._store.wake()
        return more

    def on_state_change(
        self, state: BrokerState, error: str = "", *, final: bool = False
    ) -> None:
        """See :class:`~flask_eventcollector.delivery.broker.BrokerCallbacks`."""
        is_new = state is BrokerState.READY and not self._ledger.is_connected
        self._ledger.on_state_change(state, error, final=final)
        self._flusher.wake()
        if is_new:
            self._store.connected()
            if self._observations is not None:
                self._observations.note_other(Happened.CONNECTED)

    # Startup.

    @property
    def is_started(self) -> bool:
        """Whether the threads were started."""
        return self._startup.is_done

    @property
    def threads_problem(self) -> str:
        """What is wrong with the threads; ``""``: nothing."""
        startup = self._startup
        if startup.is_done and not (startup.is_forbidden or self._flusher.is_running):
            return "the flusher has ended, so nothing is retried: restart the process"
        return startup.problem

    def wait_for_first_scan(self) -> None:
        """Wait for the first scan for events of dead processes, at most one second."""
        if not self._ledger.is_in_step:
            self._store.wait_for_first_scan()

    def start(self) -> None:
        """Start the threads and the first connection, once; does not wait.

        If no thread can be started, the events wait, and the next call tries again.
        """
        self._startup.run(self._start_all)

    def _start_all(self) -> None:
        self.broker.start(self)
        self._start_background()
        self._store.start(self.broker.wake, self.note_use)

    def _start_background(self) -> None:
        self._flusher.start()
        if self._observations is not None:
            self._observations.start(self._all_figures, self._node)

    def _node(self) -> str:
        """The broker's node; ``""``: there was no connection yet."""
        connection = self.broker.relay.connection
        return "" if connection is None else connection.node

    # Shutdown: by close(), or once the app no longer exists.

    def _shut_down_once(self, deadline: float, *, reconnect: bool) -> bool:
        """Shut down, unless that was done. The caller holds the lock for it.

        If a signal handler has interrupted a shutdown, the next call begins again.
        """
        return self._is_over or self._shut_down(deadline, reconnect=reconnect)

    def _shut_down(self, deadline: float, *, reconnect: bool) -> bool:
        """Stop; returns whether the events of dead processes are known."""
        self._startup.forbid()
        self._discard_unpublished()
        # Before the flush: the process may be killed in the middle of it.
        self._store.persist_all()
        all_known = not reconnect or self._retry_now(deadline - time.monotonic())
        state = self._ledger.stats().broker
        if reconnect or state.is_connected or state is BrokerState.CONNECTING:
            # Even without a new connection, events in flight may be confirmed.
            self._ledger.wait_until_flushed(deadline)
        self._stop(deadline)
        return all_known

    def _stop(self, deadline: float) -> None:
        self.broker.close(max(0.0, deadline - time.monotonic()))
        self._ledger.on_state_change(BrokerState.CLOSED)
        self._flusher.stop(max(0.1, deadline - time.monotonic()))
        # It may never have been started.
        self.notify_pending(0)
        self._store.close(max(_LAST_WRITE, deadline - time.monotonic()))
        # The flusher has stopped, but the store was working until now.
        self._teller.tell_quarantined()
        # From here on, whoever hands over events accounts for them.
        self._is_over = True

    def _discard_unpublished(self) -> None:
        with self._teller.telling() as notices:
            self._ledger.discard_collected(NEVER_PUBLISHED, into=notices)

    def _account_for_rest(self) -> bool:
        """Drop what is neither delivered nor on disk; returns whether nothing was."""
        # What a signal handler has interrupted, the flusher may not have dispatched.
        self.notify_pending(0)
        self._discard_unpublished()
        # Refusals come before the drops that follow from them.
        self._log.log_suppressed(at_last=True)
        with self._teller.telling() as notices:
            left = self._ledger.drop_all(ENDED, into=notices)
        self._log_last_words()
        if self._observations is not None:
            self._observations.close(_LAST_WORD)
        return not (left or self._ledger.undelivered())

    def _account_for_late(self, entries: list[Entry]) -> None:
        """Write or drop *entries*, which were handed over after the end.

        No others: another thread may be writing them.
        """
        self._store.persist(entries)
        with self._teller.telling() as notices:
            self._ledger.drop_all(LATE, among=entries, into=notices)
        self._log_last_words()

    def _log_last_words(self) -> None:
        left = Counter(spool=self.stats().spooled)
        if self.outbox is not None:
            left["outbox"] = self.outbox.left
        self._log.left(left - self._left)
        self._left = left
        # What receivers have enqueued is over, too. No receiver hears of that: it might
        # enqueue again, without end.
        with self._teller.telling(self._log.notices) as notices:
            self._ledger.take_deferred(notices)
        self._log.log_suppressed(at_last=True)

    # The flusher's work.

    def _run_once(self) -> float:
        """Run the flusher once; returns the seconds until the next run."""
        pause = self._ledger.keep_time() if self._ledger.is_timed else TICK
        with self._background():
            self.notify_pending()
            stats = self._figures()
            self._log.broker(stats, self.broker.relay.connection)
            self._log.stores(self._store.problems(), stats.unspooled)
            self._log.log_suppressed()
            if stats.delayed and self._is_volatile:
                self._log.delayed_in_memory()
        due = self._ledger.due()
        if due is None:
            return pause
        if due <= 0:
            self.broker.wake()
        return min(due, pause)

    def _on_stop(self) -> None:
        """The flusher stops: delivery was closed, or the app no longer exists."""
        self.notify_pending()
        call_holding(self._closing, 0.0, self._end)

    def _end(self) -> None:
        if not self._is_over:
            self._shut_down_once(time.monotonic(), reconnect=False)
            self._account_for_rest()


def _backlog_full(event: Event) -> BacklogFull:
    return BacklogFull(
        f"the event for {event.target_queue!r} was rejected: this process holds as many"
        " events or bytes as EVENTCOLLECTOR_MAX_EVENTS and EVENTCOLLECTOR_MAX_BYTES"
        " allow; raise the limits, or see events.stats() for what is waiting"
    )
