"""Checks the exchanges and queues of the settings, and where events would go."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from ..brokers.rabbitmq.inspection import Finding as Stand
from ..brokers.rabbitmq.inspection import Inspector, State
from ..brokers.rabbitmq.questions import Questions
from ..config.exchanges import ExchangeOptions, Unrouted
from ..config.routing import Router
from ..config.topology import Topology, of_others
from ..events import Target
from ..messages.wording import counted
from ..stores.spool.admin.reading import Unreadable, sums_by_target
from .broker import unchecked
from .case import Case
from .findings import Finding, ok, problem, split, warning
from .outbox import Unopened, opened

#: The most targets of a file that are looked at.
_MOST_TARGETS = 10_000


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


def targets(case: Case) -> Iterator[Finding]:
    """Whether events reach a queue: those to come, and those that wait."""
    counts = _waiting(case)
    found = [*_unbound(case), *_unmatched(case, counts)]
    if case.node is not None:
        with case.asking(case.node) as questions:
            found += _unreachable(case, questions, counts)
    elif counts:
        found += filter(None, [unchecked(case)])
    yield from found or [ok("no event is known that would reach no queue")]


def _unbound(case: Case) -> Iterator[Finding]:
    """Queues of the settings that nothing binds to the exchange of the events."""
    exchange, topology = case.config.exchange, case.config.topology
    router = Router(topology)
    for queue, options in topology.queues.items() if exchange else ():
        is_bound = bool(options.bind) or not options.declare
        if router.queues(exchange, queue, {}) == () and not is_bound:
            yield warning(
                f"queue {queue!r} is bound to nothing, but events go to exchange"
                f" {exchange!r}, so those for it reach no queue",
                f"add 'bind': ['{exchange}:{queue}'] to its options, or publish with"
                " exchange=''",
            )


def _unmatched(case: Case, counts: Counter[Target]) -> Iterator[Finding]:
    """The events that wait, and that no binding of the settings matches."""
    known = case.config.topology
    router = Router(known)
    for target, count in counts.most_common():
        options = known.exchanges.get(target.exchange)
        is_needed = options is not None and options.mandatory and _by_key(options)
        if is_needed and router.queues(*target, {}) == ():
            yield warning(
                f"{_wait(count)} for exchange {target.exchange!r} with the routing key"
                f" {target.queue!r}, which no binding of the settings matches",
                "add it to the 'bind' of a queue, unless others have bound one",
            )


def _by_key(options: ExchangeOptions) -> bool:
    """Whether the routing key decides, and an event must reach a queue."""
    return options.type != "headers" and options.unrouted is Unrouted.RETRY


def _wait(count: int) -> str:
    return "1 event waits" if count == 1 else f"{count} events wait"


def _waiting(case: Case) -> Counter[Target]:
    """How many events wait or are dead, by their targets."""
    counts: Counter[Target] = Counter()
    folder = case.state.spool_folder()
    if folder is not None:
        problems: list[Unreadable] = []
        sums = sums_by_target(folder, problems, _MOST_TARGETS)
        counts.update({one.target: one.events for one in sums})
    with suppress(Unopened), opened(case) as outbox:
        counts.update(outbox.admin.targets())
    return counts


def _unreachable(
    case: Case, questions: Questions, counts: Counter[Target]
) -> Iterator[Finding]:
    """The events that wait for what neither exists nor is declared by workers."""
    known = case.config.topology
    for target, count in counts.most_common():
        what, cure = _no_place(target, known, questions)
        if what:
            yield problem(f"{_wait(count)} for {what}, which does not exist", cure)


def _no_place(target: Target, known: Topology, questions: Questions) -> tuple[str, str]:
    """What does not exist, with the cure; nothing if it does."""
    exchange, queue = target
    if exchange:
        if exchange in known.exchanges or questions.has_exchange(exchange):
            return "", ""
        return f"exchange {exchange!r}", _DECLARE
    options = known.queues.get(queue)
    is_declared = options is not None and options.declare
    if is_declared or questions.has_queue(queue):
        return "", ""
    return f"queue {queue!r}", _REDIRECT.format(shlex.quote(queue))


_DECLARE = "have it declared, or add it to EVENTCOLLECTOR_EXCHANGES with its type"
_REDIRECT = (
    "add it to EVENTCOLLECTOR_QUEUES, or send them elsewhere by 'flask events retry"
    " --queue {} --to QUEUE'"
)
