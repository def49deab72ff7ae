"""Delivers what waits in the spool and in the outbox."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from ..backlog.backlog import Backlog
from ..backlog.outbox import OutboxRows
from ..delivery.delivery import Delivery
from ..errors import ConfigurationError
from ..stores.progress import OnProgress
from ..stores.spool.admin.draining import NOTHING, Drained, drain, why_left
from ..stores.spool.admin.reading import Unreadable, reports
from .context import app_state, check_broker, delivery
from .exit_codes import Failure


def undelivered(places: Backlog) -> int:
    """How many events a flush will try to deliver, as far as they can be read."""
    files = [] if places.folder is None else reports(places.folder)
    count = sum(file.waiting for file in files if not file.owner.alive)
    if places.outbox is not None:
        try:
            counts = places.outbox.counts()
        except Unreadable:
            return count
        count += counts.free + counts.delayed
    return count


def flush(places: Backlog, timeout: float, on_progress: OnProgress) -> Drained:
    """Deliver within *timeout* seconds.

    :raises Failure: there is no real broker.
    """
    deadline = time.monotonic() + timeout
    check_broker(app_state())
    drained = NOTHING
    if places.folder is not None:
        drained = drain(delivery(), places.folder, timeout, on_progress)
    if places.outbox is None:
        return drained
    try:
        return _flush_rows(places.outbox, drained, deadline, on_progress)
    except Unreadable as error:
        return replace(drained, unreadable=[*drained.unreadable, error])


def _flush_rows(
    outbox: OutboxRows, drained: Drained, deadline: float, on_progress: OnProgress
) -> Drained:
    """*drained*, and what becomes of the rows that nobody holds."""
    state = app_state()
    try:
        relay, store = state.new_relay(outbox.bound, f"a flush, process {os.getpid()}")
        store.open(outbox.engine())
    except ConfigurationError as error:
        raise Failure(str(error)) from error
    try:
        sent = _drain_rows(relay, deadline, on_progress)
        sent = replace(sent, reason=why_left(relay.stats()))
    finally:
        relay.close(state.config.shutdown_timeout, reconnect=False)
    return _together(drained, sent, outbox)


def _together(drained: Drained, sent: Drained, outbox: OutboxRows) -> Drained:
    """What was *drained* from disk and *sent* from the outbox, and what is left."""
    counts = outbox.counts()
    # Another relay sends what nobody holds.
    waiting = 0 if outbox.leader() else counts.free + counts.delayed
    return replace(
        drained,
        delivered=drained.delivered + sent.delivered,
        unrouted=drained.unrouted + sent.unrouted,
        dropped=drained.dropped + sent.dropped,
        waiting=drained.waiting + waiting,
        dead=drained.dead + counts.dead,
        held=counts.waiting - waiting,
        problems=(*drained.problems, *sent.problems),
        reason=drained.reason or (sent.reason if waiting else ""),
    )


def _drain_rows(relay: Delivery, deadline: float, on_progress: OnProgress) -> Drained:
    """Send rows, as many at a time as fit into memory."""
    ended, before = NOTHING, -1
    while before < ended.ended:
        before = ended.ended
        left = max(0.0, deadline - time.monotonic())
        now = drain(relay, None, left, on_progress)
        ended = replace(
            now,
            delivered=ended.delivered + now.delivered,
            unrouted=ended.unrouted + now.unrouted,
            dropped=ended.dropped + now.dropped,
        )
    return ended
