"""What was published on one channel, and is not confirmed yet."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from ...config.exchanges import ExchangeOptions
from ...config.routing import Router
from ...delivery.entries import Entry, Settlement
from ...events import Outcome
from .. import no_route

#: Seconds of nacks for one queue after which a new channel is tried.
WORN_AFTER = 2.0


class Unconfirmed:
    """Finds out which messages a confirm is about, and how they ended.

    Delivery tags count from 1 on each channel, in the order of publishing.
    https://www.rabbitmq.com/docs/confirms#publisher-confirms
    """

    def __init__(
        self, options: ExchangeOptions, router: Router, nacked_before: Collection[str]
    ) -> None:
        self._options = options
        self._router = router
        self._by_tag: dict[int, Entry] = {}
        self._last_tag = 0
        #: ``basic.return`` arrives before the ack of the same message.
        self._returned: dict[str, str] = {}
        self.last_confirm_at = float("-inf")
        #: Since when each queue has nacked without a confirm in between.
        self._nacked_since: dict[str, float] = {}
        #: Queues that have nacked on the channel before this one, until a confirm.
        self.nacked_before = set(nacked_before)

    def __len__(self) -> int:
        return len(self._by_tag)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._by_tag.values())

    def add(self, entry: Entry) -> None:
        """*entry* was published."""
        self._last_tag += 1
        self._by_tag[self._last_tag] = entry

    def returned(self, message_id: str, reason: str) -> None:
        """The broker has returned a message, and will confirm it."""
        self._returned[message_id] = reason

    def clear(self) -> None:
        """No more confirms will arrive."""
        self._by_tag.clear()

    def worn_by(self, now: float) -> set[str]:
        """The queues that have nacked for so long that a new channel is worth a try."""
        since = self._nacked_since
        return {queue for queue in since if now - since[queue] >= WORN_AFTER}

    def confirmed(self, tag: int, *, multiple: bool, nacked: bool) -> list[Settlement]:
        """The outcomes of the messages that a confirm with *tag* covers."""
        self.last_confirm_at = time.monotonic()
        entries = self._covered(tag, multiple)
        odd = nacked or self._returned or self._nacked_since or self.nacked_before
        if not odd:
            return [Settlement(entry, Outcome.CONFIRMED) for entry in entries]
        return [self._settlement(entry, nacked) for entry in entries]

    def _covered(self, tag: int, multiple: bool) -> list[Entry]:
        """The events that a confirm with *tag* covers."""
        if not multiple:
            return [e for e in [self._by_tag.pop(tag, None)] if e is not None]
        tags = []
        for unconfirmed in self._by_tag:
            if unconfirmed > tag:
                break
            tags.append(unconfirmed)
        return [self._by_tag.pop(tag) for tag in tags]

    def _settlement(self, entry: Entry, nacked: bool) -> Settlement:
        returned = self._returned.pop(entry.event.id, None)
        if returned is not None:
            event = entry.event
            about = (event.exchange, event.target_queue, event.headers)
            declared = self._router.declared_queue(*about)
            return no_route.returned(entry, self._options, returned, declared)
        queue = entry.event.target_queue
        if nacked:
            self._nacked_since.setdefault(queue, self.last_confirm_at)
            return Settlement(entry, Outcome.NACKED, f"the queue {queue!r} refused it")
        self._nacked_since.pop(queue, None)
        self.nacked_before.discard(queue)
        return Settlement(entry, Outcome.CONFIRMED)
