"""Checks where events go, and where those that wait would go."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ..backlog.wording import wait
from ..brokers.rabbitmq.questions import Questions
from ..config.exchanges import ExchangeOptions, Unrouted
from ..config.routing import Router
from ..config.topology import Topology
from ..events import Target
from ..messages.wording import counted, waiting
from ..stores.spool.admin.reading import Unreadable, sums_by_target
from ..stores.sums import TargetSum, summed
from .broker import unchecked
from .case import Case
from .findings import Finding, ok, problem, warning
from .outbox import Unopened, opened

#: The most targets of a store that are looked at.
_MOST_TARGETS = 10_000


def targets(case: Case) -> Iterator[Finding]:
    """Whether events reach a queue: those to come, and those that wait."""
    sums = _waiting(case)
    found = [*_unbound(case), *_unmatched(case, sums)]
    missing = dict[Target, Finding]()
    if case.node is not None:
        with case.asking(case.node) as questions:
            missing = _unreachable(case, questions, sums)
    elif sums:
        found += filter(None, [unchecked(case)])
    found += [*missing.values(), *_refused(s for s in sums if s.target not in missing)]
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


def _unmatched(case: Case, sums: Sequence[TargetSum]) -> Iterator[Finding]:
    """The events that wait, and that no binding of the settings matches."""
    known = case.config.topology
    router = Router(known)
    for target, count in ((one.target, one.events) for one in sums):
        options = known.exchanges.get(target.exchange)
        is_needed = options is not None and options.mandatory and _by_key(options)
        if is_needed and router.queues(*target, {}) == ():
            yield warning(
                f"{waiting(count, 'event')} for {_called(target)}, which no binding of"
                " the settings matches",
                "add it to the 'bind' of a queue, unless others have bound one",
            )


def _by_key(options: ExchangeOptions) -> bool:
    """Whether the routing key decides, and an event must reach a queue."""
    return options.type != "headers" and options.unrouted is Unrouted.RETRY


def _waiting(case: Case) -> list[TargetSum]:
    """What waits or is dead, by target: on disk, in the outbox, and in memory."""
    sums, problems = list[TargetSum](), list[Unreadable]()
    folder = case.state.spool_folder()
    if folder is not None:
        sums += sums_by_target(folder, problems, _MOST_TARGETS)
    with suppress(Unopened), opened(case) as outbox:
        rows = outbox.admin.sums_by_target(_MOST_TARGETS)
        # A row has a reason only once it is dead.
        sums += (one._replace(attempts=None, next_try=None) for one in rows)
    said = {one.target: one for one in summed(_said(case))}
    stored = [_explained(one, said.pop(one.target, None)) for one in summed(sums)]
    return [*stored, *said.values()]


def _explained(one: TargetSum, said: TargetSum | None) -> TargetSum:
    """*one*, with the reason why it waits: of the last refusal, or as it is *said*."""
    if one.attempts:
        return one
    if said is None:
        # Without a reason that a dead one may have.
        return one._replace(reason="")
    return one.explained_by(said)


def _said(case: Case) -> Iterator[TargetSum]:
    """What keeps events from being confirmed, as the running processes say it."""
    for counts in case.running():
        yield from map(TargetSum.of, counts.books.problems)


def _unreachable(
    case: Case, questions: Questions, sums: Sequence[TargetSum]
) -> dict[Target, Finding]:
    """The events that wait for what neither exists nor is declared by workers."""
    found = dict[Target, Finding]()
    for one in sums:
        what, cure = _no_place(one.target, case.config.topology, questions)
        if what:
            text = f"{waiting(one.events, 'event')} for {what}, which does not exist"
            found[one.target] = problem(text, cure)
    return found


def _refused(sums: Iterator[TargetSum]) -> Iterator[Finding]:
    """The events that were sent in vain."""
    for one in sums:
        if one.waiting and one.reason:
            yield problem(
                f"{waiting(one.waiting, 'event')} for {_called(one.target)}, not"
                f" confirmed{_tries(one)}: {one.reason}",
                _look_at(one),
            )


def _tries(one: TargetSum) -> str:
    sent = f"sent {counted(one.attempts, 'time')}" if one.attempts else ""
    again = "" if one.next_try is None else f"again {wait(one.next_try)}"
    about = ", ".join(filter(None, [sent, again]))
    return f" ({about})" if about else ""


def _called(target: Target) -> str:
    exchange, queue = target
    if not exchange:
        return f"queue {queue!r}"
    return f"exchange {exchange!r} with the routing key {queue!r}"


def _look_at(one: TargetSum) -> str:
    """The cure, unless the reason itself has one."""
    if "refused it" not in one.reason:
        return "mend that; they are sent again by themselves"
    which = "which queues are bound for that key ('rabbitmqctl list_bindings'), and "
    return f"see {which if one.target.exchange else ''}{_SEE_QUEUE}"


_SEE_QUEUE = (
    "whether the queue is full, and who consumes from it ('rabbitmqctl list_queues name"
    " messages consumers policy arguments'); they are sent again by themselves"
)


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
