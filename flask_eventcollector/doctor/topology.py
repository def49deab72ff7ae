"""Checks the exchanges and queues of the settings."""

from __future__ import annotations

from collections.abc import Iterator

from ..brokers.rabbitmq.inspection import Finding as Stand
from ..brokers.rabbitmq.inspection import Inspector, State
from ..config.topology import of_others
from ..messages.wording import counted
from .broker import unchecked
from .case import Case
from .findings import Finding, ok, problem, split, warning


def stands(case: Case) -> Iterator[Finding]:
    """Whether each exchange and queue is as the settings say."""
    if case.node is None:
        yield from filter(None, [unchecked(case)])
        return
    topology = case.config.topology
    others = of_others(topology, case.config.exchange)
    inspector = Inspector(case.connecting(case.node), topology)
    found = [*inspector.findings(others, apply=False)]
    bad = [stand for stand in found if stand.state.is_bad and not _follows(stand)]
    if bad:
        yield from map(_told, bad)
    elif found:
        same = sum(stand.state is State.SAME for stand in found)
        bindings = len(found) - same
        unseen = f"; AMQP does not show {counted(bindings, 'binding')}"
        as_said = f"{same} {'is' if same == 1 else 'are'} as the settings say"
        yield ok(as_said + (unseen if bindings else ""))
    else:
        yield ok("the settings declare nothing")


def _follows(stand: Stand) -> bool:
    """Whether it is missing, since its queue or its exchange is."""
    return stand.kind == "binding" and stand.state is State.MISSING


def _told(stand: Stand) -> Finding:
    what = f"{stand.kind} {stand.name!r}"
    if stand.state is State.MISSING and not stand.reason:
        return warning(
            f"{what} is missing",
            "each worker declares it when it connects; to do it now, run 'flask events"
            " topology apply'",
        )
    if stand.state is State.MISSING:
        return problem(f"{what} is missing", stand.reason)
    if stand.state is State.REFUSED:
        reason, cure = split(stand.reason, "see the broker's log")
        return problem(f"{what} was refused: {reason}", cure)
    differences = "; ".join(map(str, stand.differences))
    return problem(f"{what} differs: {differences}", stand.reason)
