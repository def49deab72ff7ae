"""What is told of an event that its exchange has put into no queue."""

from __future__ import annotations

from ..config.exchanges import ExchangeOptions, Unrouted, is_plain
from ..delivery.entries import Entry, Settlement
from ..events import Outcome, Target


def returned(
    entry: Entry, options: ExchangeOptions, answer: str = "NO_ROUTE"
) -> Settlement:
    """The settlement for *entry*, which the broker has returned.

    :param options: those of its exchange.
    :param answer: what the broker said.
    """
    return Settlement(
        entry,
        Outcome.RETURNED,
        _reason(entry.target, answer),
        possibly_taken=not is_plain(entry.target.exchange, options),
        is_discarded=options.unrouted is Unrouted.DISCARD,
    )


def no_exchange(answer: str) -> str:
    """Why events are returned whose exchange does not exist; the broker's *answer*."""
    return (
        f"{answer}; declare it in EVENTCOLLECTOR_EXCHANGES, with its 'type', or correct"
        " its name"
    )


def _reason(target: Target, answer: str) -> str:
    if not target.exchange:
        return (
            f"no queue for {target.queue!r}: {answer}; declare it in"
            " EVENTCOLLECTOR_QUEUES, or correct its name"
        )
    return (
        f"nothing is bound to exchange {target.exchange!r} for routing key"
        f" {target.queue!r}: {answer}; bind a queue in EVENTCOLLECTOR_QUEUES, or set"
        " 'unrouted' in EVENTCOLLECTOR_EXCHANGES"
    )
