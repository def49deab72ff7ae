"""What is told of an event that its exchange has put into no queue."""

from __future__ import annotations

from ..config.exchanges import ExchangeOptions, Unrouted, is_plain
from ..delivery.entries import Entry, Settlement
from ..events import Outcome, Target


def returned(
    entry: Entry,
    options: ExchangeOptions,
    answer: str = "NO_ROUTE",
    declared: str | None = None,
) -> Settlement:
    """The settlement for *entry*, which the broker has returned.

    :param options: those of its exchange.
    :param answer: what the broker said.
    :param declared: a queue that the settings declare for it.
    """
    return Settlement(
        entry,
        Outcome.RETURNED,
        _reason(entry.target, answer, declared),
        possibly_taken=not is_plain(entry.target.exchange, options),
        is_discarded=options.unrouted is Unrouted.DISCARD,
    )


def no_exchange(answer: str, options: ExchangeOptions) -> str:
    """Why events are returned whose exchange does not exist.

    :param answer: what the broker said.
    :param options: those of the exchange.
    """
    if options.is_declared:
        return f"{answer}; {_is_gone('it is in EVENTCOLLECTOR_EXCHANGES')}"
    return (
        f"{answer}; declare it in EVENTCOLLECTOR_EXCHANGES, with its 'type', or correct"
        " its name"
    )


def _reason(target: Target, answer: str, declared: str | None) -> str:
    if not target.exchange:
        cure = "declare it in EVENTCOLLECTOR_QUEUES, or correct its name"
        if declared is not None:
            cure = _is_gone("it is in EVENTCOLLECTOR_QUEUES")
        return f"no queue for {target.queue!r}: {answer}; {cure}"
    cure = (
        "bind a queue in EVENTCOLLECTOR_QUEUES, or set 'unrouted' in"
        " EVENTCOLLECTOR_EXCHANGES"
    )
    if declared is not None:
        cure = _is_gone(f"EVENTCOLLECTOR_QUEUES binds {declared!r}")
    return (
        f"nothing is bound to exchange {target.exchange!r} for routing key"
        f" {target.queue!r}: {answer}; {cure}"
    )


def _is_gone(settings: str) -> str:
    """The cure for something missing that the *settings* declare, as they say."""
    return (
        f"{settings}, but that was deleted, or could not be declared: see 'flask events"
        " topology apply', which declares it anew"
    )
