"""The events of one unit of work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..delivery.delivery import Delivery
from ..delivery.entries import Entry
from ..events import Event, PublishResult
from ..messages.encoding import EventEncoder
from ..messages.wording import counted
from ..transactions.transaction import Transaction
from .keys import Keys, Place

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..messages.options import EventOptions


class CollectorLike(Protocol):
    """The interface of every collector, for functions that work with any of them.

    The extension, the collector of a block or a thread, and a test's own double all
    have it. The results are ``Any``, since a double may return what it likes::

        def place_order(collector: CollectorLike, number: int) -> None:
            collector.enqueue_event({"id": number}, "orders.created")


        place_order(events, 7)
        with events.auto_publish() as block:
            place_order(block, 8)
    """

    def enqueue_event(
        self,
        payload: Any,
        target_queue: str,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        **options: Unpack[EventOptions],
    ) -> Any:
        """See :meth:`flask_eventcollector.EventCollector.enqueue_event`."""

    def publish(self, timeout: float | None = None) -> Any:
        """See :meth:`flask_eventcollector.EventCollector.publish`."""

    def clear_events_to_publish(self) -> Any:
        """See :meth:`flask_eventcollector.EventCollector.clear_events_to_publish`."""

    @property
    def events_to_publish(self) -> Any:
        """See :attr:`flask_eventcollector.EventCollector.events_to_publish`."""


class Collector:
    """Holds events, in order, until they are published or cleared. Thread-safe.

    *delivery* returns the current process's delivery. A forked child starts empty; the
    events that its parent had collected stay with the parent. *transaction* returns the
    transaction that an event belongs to now.
    """

    #: The keys of its events; ``None``: none has one.
    _keys: Keys | None = None

    def __init__(
        self,
        delivery: Callable[[], Delivery],
        encoder: EventEncoder,
        transaction: Callable[[], Transaction | None],
    ) -> None:
        self._entries: list[Entry] = []
        #: The transactions that some of the entries belong to.
        self._transactions: dict[Transaction, None] = {}
        self._find_transaction = transaction
        self._find_delivery = delivery
        self._delivery = delivery()
        self._encoder = encoder

    def __repr__(self) -> str:
        return f"<Collector of {counted(len(self.events_to_publish), 'event')}>"

    def enqueue_event(
        self,
        payload: Any,
        target_queue: str,
        *,
        headers: Mapping[str, Any] | None = None,
        exchange: str | None = None,
        **options: Unpack[EventOptions],
    ) -> Event:
        """See :meth:`flask_eventcollector.EventCollector.enqueue_event`."""
        delivery = self._current_delivery()
        event = self._encoder.encode(
            payload, target_queue, headers, exchange, options, ids=delivery.ids
        )
        if not self._entries:
            delivery.watch(self, self._entries)
        transaction = self._find_transaction()
        if transaction is None:
            place, is_kept = None, False
        else:
            self._transactions[transaction] = None
            place, is_kept = transaction.place(delivery), transaction.writes_events
        if not event.is_plain and event.properties.key is not None:
            return self._collect_keyed(delivery, event, place, is_kept)
        delivery.collect(self._entries, event, place, is_kept=is_kept)
        return event

    def _collect_keyed(
        self, delivery: Delivery, event: Event, place: Place, is_kept: bool
    ) -> Event:
        keys = self._keys = self._keys or Keys()
        kept = keys.settle(delivery, event, place)
        if kept is not None:
            return kept
        delivery.collect(self._entries, event, place, is_kept=is_kept)
        # It may have been dropped.
        entry = next((e for e in reversed(self._entries) if e.event is event), None)
        if entry is not None:
            keys.note(entry, place)
        return event

    def publish(self, timeout: float | None = None) -> PublishResult:
        """See :meth:`flask_eventcollector.EventCollector.publish`."""
        delivery = self._current_delivery()
        held = self._hold_back()
        self._coalesce(self._entries)
        if not self._entries:
            return PublishResult(held=held)
        return replace(delivery.publish(self._entries, timeout), held=held)

    def hand_over(self) -> None:
        """Publish without waiting, and without a result."""
        delivery = self._current_delivery()
        self._hold_back()
        self._coalesce(self._entries)
        if self._entries:
            delivery.hand_over(self._entries)

    def clear_events_to_publish(self, reason: str = "cleared") -> int:
        """See :meth:`flask_eventcollector.EventCollector.clear_events_to_publish`."""
        delivery = self._current_delivery()
        if not self._entries:
            return 0
        return delivery.discard(self._entries, reason)

    @property
    def events_to_publish(self) -> tuple[Event, ...]:
        """See :attr:`flask_eventcollector.EventCollector.events_to_publish`."""
        delivery = self._current_delivery()
        return delivery.collected(self._entries) if self._entries else ()

    # Called by its thread's app contexts.

    @property
    def newest(self) -> object:
        """The newest event; ``None``: there is none."""
        self._current_delivery()
        return self._entries[-1] if self._entries else None

    def warn_of_unpublished(self, before: object, reason: str) -> None:
        """Warn of events collected after *before* that are still unpublished."""
        delivery = self._current_delivery()
        delivery.warn_of_unpublished(self._entries[self._place_after(before) :], reason)

    def publish_since(self, before: object) -> None:
        """Publish the events collected after *before*."""
        delivery, place = self._current_delivery(), self._place_after(before)
        self._hold_back(place)
        entries = self._entries[place:]
        end = place + len(entries)
        self._coalesce(entries)
        if entries:
            delivery.publish(entries)
            # Others may have followed: of a destructor, or of another thread.
            self._entries[place:end] = entries

    def discard_since(self, before: object, reason: str) -> None:
        """Discard the events collected after *before*."""
        delivery, place = self._current_delivery(), self._place_after(before)
        entries = self._entries[place:]
        end = place + len(entries)
        delivery.discard(entries, reason)
        self._entries[place:end] = entries

    def _place_after(self, before: object) -> int:
        """The position after *before*; 0: *before* is not here any more."""
        places = range(len(self._entries), 0, -1)
        return next((n for n in places if self._entries[n - 1] is before), 0)

    def _hold_back(self, place: int = 0) -> int:
        """Leave to its transaction what is to be published, and may be rolled back.

        That is, of the entries from *place* on. Returns how many events.
        """
        count = 0
        for transaction in list(self._transactions):
            if transaction.is_over:
                self._transactions.pop(transaction, None)
                continue
            held = transaction.hold_back(self._delivery, self._entries[place:])
            for entry in held:
                self._entries.remove(entry)
            count += len(self._delivery.collected(held))
        return count

    def _coalesce(self, entries: list[Entry]) -> None:
        """Keep one of *entries* for each key, after others were held back.

        Those that a transaction has held back are decided by its end, and what comes
        later is of another unit of work.
        """
        if self._keys is not None:
            self._keys = None
            self._delivery.coalesce(entries)

    def _current_delivery(self) -> Delivery:
        """This process's delivery."""
        delivery = self._find_delivery()
        if delivery is not self._delivery:
            self._delivery, self._entries, self._transactions = delivery, [], {}
            self._keys = None
        return delivery


def discard(collector: CollectorLike, reason: str) -> None:
    """Clear *collector*; a test's double does not get the reason."""
    if isinstance(collector, Collector):
        collector.clear_events_to_publish(reason)
    else:
        collector.clear_events_to_publish()
