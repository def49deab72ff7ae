"""Turns events into the values of a row, and rows into events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, and_

from ...events import (
    NO_PROPERTIES,
    Event,
    Properties,
    Target,
    id_from_text,
    make_event,
)
from ...messages.amqp_fields import NO_HEADERS
from ...messages.unicode_text import well_formed
from ..plain import about_as_text, about_from_text
from .clock import now_ms
from .table import WAITING


class OutboxRow(NamedTuple):
    """A row of the outbox, with its event."""

    #: Its number, which is its place in the order.
    seq: int
    event: Event
    is_dead: bool
    #: Whether a process holds it, whose lease has not run out.
    is_held: bool
    #: Seconds until it may be sent again, or until its lease runs out; 0: now.
    due_in: float
    #: If it is dead: how many times it was sent.
    attempts: int
    #: Why it is dead.
    reason: str
    #: Whether this may be its second copy, since a process has not said what became
    #: of the first.
    maybe_sent: bool
    #: Why this version can't read its headers, without which the event must not be
    #: sent; ``""``: it can.
    problem: str


def values_of(event: Event) -> dict[str, Any]:
    """The values of the row for *event*."""
    return {
        "exchange": event.exchange,
        "target_queue": event.target_queue,
        "event_id": event.id,
        "enqueued_at": event.microseconds,
        "size": event.size,
        "headers": about_as_text(event),
        "body": event.body,
    }


def storable(text: str) -> str:
    """*text* as databases can store it: PostgreSQL's has no U+0000."""
    return well_formed(text).replace("\0", "\N{REPLACEMENT CHARACTER}")


def is_waiting(table: Table, app: str) -> ColumnElement[bool]:
    """The condition for a row of *app* that is not dead: the index begins with it."""
    return and_(table.c.app == app, table.c.state == WAITING)


def columns_of(table: Table) -> list[ColumnElement[Any]]:
    """What must be selected for :func:`row_of`, in its order."""
    c = table.c
    return [
        c.seq,
        c.state,
        c.token,
        (c.due - now_ms()).label("due_in"),
        c.attempts,
        c.reason,
        c.maybe_sent,
        c.exchange,
        c.target_queue,
        c.event_id,
        c.enqueued_at,
        c.size,
        c.headers,
        c.body,
    ]


def row_of(row: Sequence[Any]) -> OutboxRow:
    """The row that was selected as :func:`columns_of`."""
    seq, state, token, due_in, attempts, reason, maybe_sent = row[:7]
    event, problem = _event(*row[7:])
    return OutboxRow(
        seq=seq,
        event=event,
        is_dead=state != 0,
        is_held=token is not None and due_in > 0,
        due_in=max(0, due_in) / 1000,
        attempts=attempts,
        reason=reason or "",
        maybe_sent=maybe_sent,
        problem=problem,
    )


def _event(
    exchange: str,
    target_queue: str,
    id: str,
    enqueued_at: int,
    size: int,
    about: str,
    body: bytes,
) -> tuple[Event, str]:
    headers, properties, problem = _about(about)
    event = make_event(
        id_from_text(id),
        _target(exchange, target_queue),
        bytes(body),
        headers,
        enqueued_at,
        size,
        properties,
    )
    return event, problem


def _about(text: str) -> tuple[Mapping[str, Any], Properties, str]:
    """The headers and properties in *text*, or none of them, and why not."""
    try:
        return *about_from_text(text), ""
    except Exception as error:
        # One such row must not keep those that were read with it from being sent.
        why = f"{type(error).__name__}: {error}"
        return NO_HEADERS, NO_PROPERTIES, f"its column headers can't be read ({why})"


#: Events share their targets, most of which come again.
_target = lru_cache(maxsize=1000)(Target)
