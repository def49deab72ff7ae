"""Compares a broker's exchanges and queues with the settings, for an operator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from ...config.broker_url import BrokerURL
from ...config.topology import Topology
from ...events import Word
from .declarations import Phase, Step, steps
from .differences import (
    Difference,
    adapted,
    cure,
    difference,
    differs,
    how_to_align,
)
from .logins import Logins
from .pika_logging import silence_pika_in_this_thread
from .reasons import CONNECTION_ERRORS, broker_text, explain
from .trials import Connect, Trials, open_connection

#: The most differences of one queue that are looked for.
_MOST_DIFFERENCES = 20


class State(Word):
    """How an exchange, a queue or a binding stands."""

    #: It is as the settings say, as far as AMQP shows it.
    SAME = "same"
    MISSING = "missing"
    DIFFERENT = "different"
    #: A binding between what exists: AMQP does not show whether it exists, too.
    UNKNOWN = "unknown"
    #: It was missing, and is declared now.
    DECLARED = "declared"
    #: The binding exists now; it may have existed before.
    BOUND = "bound"
    #: The broker allows neither to see nor to declare it.
    REFUSED = "refused"

    @property
    def is_bad(self) -> bool:
        """Whether it is not as the settings say."""
        return self in (State.MISSING, State.DIFFERENT, State.REFUSED)


class Finding(NamedTuple):
    """How one exchange, queue or binding stands."""

    #: ``exchange``, ``queue`` or ``binding``.
    kind: str
    #: Its name; of a binding, the source, and the name of the queue.
    name: str
    state: State
    differences: tuple[Difference, ...] = ()
    #: What the broker said, or what to do; ``""``: nothing.
    reason: str = ""


class BrokerUnreachable(Exception):
    """No connection could be made."""


def connecting(
    urls: Iterable[BrokerURL], heartbeat: float, name: str, logins: Logins
) -> Connect:
    """Make a function that connects to the first of *urls* that can be reached.

    It raises :exc:`BrokerUnreachable` if there is none.

    :param name: what the broker calls the connection.
    :param logins: what it logs in with.
    """

    def connect() -> pika.BlockingConnection:
        problems = []
        for url in urls:
            try:
                return open_connection(url, heartbeat, name, logins)
            except CONNECTION_ERRORS as e:
                problems.append(f"{url.host}:{url.port}: {explain(e)}")
        raise BrokerUnreachable("; ".join(problems))

    return connect


class Inspector:
    """Looks at a broker, and declares what is missing. Never deletes anything.

    Not thread-safe; each call blocks until the broker has answered.
    """

    def __init__(self, connect: Connect, topology: Topology) -> None:
        self._trials = Trials(connect)
        self._steps = list(steps(topology))
        #: The exchanges and queues that do not exist, by kind and name.
        self._missing: set[tuple[str, str]] = set()

    def findings(
        self, others: Sequence[tuple[str, str]], *, apply: bool
    ) -> Iterator[Finding]:
        """How everything stands, in the order of its declaration.

        :param others: kinds and names of what must exist, but is declared by others.
        :param apply: whether to declare and bind what is missing.
        :raises BrokerUnreachable: there is no connection.
        """
        silence_pika_in_this_thread()
        try:
            for kind, name in others:
                yield self._of_others(kind, name)
            for step in self._steps:
                if step.phase is Phase.BINDINGS:
                    yield self._binding(step, apply)
                else:
                    yield self._declared(step, apply)
        except AMQPError as error:
            raise BrokerUnreachable(explain(error)) from error
        finally:
            self._trials.close()

    def _of_others(self, kind: str, name: str) -> Finding:
        error = self._trials.refusal(lambda channel: _look(channel, kind, name))
        state, reason = State.SAME, ""
        if error is not None and error.reply_code == 404:
            self._missing.add((kind, name))
            state = State.MISSING
            reason = (
                f"the settings do not declare it: {_WAYS_TO_DECLARE[kind]}, or have"
                " others declare it"
            )
        elif error is not None:
            state, reason = State.REFUSED, broker_text(error)
        return Finding(kind, name, state, reason=reason)

    def _declared(self, step: Step, apply: bool) -> Finding:
        error = self._trials.refusal(
            lambda channel: _look(channel, step.kind, step.name)
        )
        if error is None:
            return self._compared(step)
        if error.reply_code != 404:
            return _finding(step, State.REFUSED, error)
        if not apply:
            self._missing.add((step.kind, step.name))
            return Finding(step.kind, step.name, State.MISSING)
        error = self._trials.refusal(step.send)
        if error is not None:
            self._missing.add((step.kind, step.name))
            return _finding(step, State.REFUSED, error)
        return Finding(step.kind, step.name, State.DECLARED)

    def _compared(self, step: Step) -> Finding:
        """How something that exists differs: the broker tells one thing at a time."""
        found: list[Difference] = []
        changed: Step | None = step
        while changed is not None and len(found) < _MOST_DIFFERENCES:
            error = self._trials.refusal(changed.send)
            if error is None:
                break
            one = difference(error)
            if one is None:
                state = State.DIFFERENT if differs(error) else State.REFUSED
                return _finding(step, state, error)._replace(differences=tuple(found))
            found.append(one)
            changed = adapted(changed, one)
        if not found:
            return Finding(step.kind, step.name, State.SAME)
        return Finding(
            step.kind, step.name, State.DIFFERENT, tuple(found), how_to_align(step)
        )

    def _binding(self, step: Step, apply: bool) -> Finding:
        name = f"{step.values['exchange']}:{step.values['routing_key']} → {step.name}"
        ends = {("exchange", step.values["exchange"]), ("queue", step.name)}
        if ends & self._missing:
            return Finding(step.kind, name, State.MISSING)
        if not apply:
            return Finding(step.kind, name, State.UNKNOWN)
        error = self._trials.refusal(step.send)
        if error is not None:
            return _finding(step, State.REFUSED, error)._replace(name=name)
        return Finding(step.kind, name, State.BOUND)


_WAYS_TO_DECLARE = {
    "exchange": "give it a 'type' in EVENTCOLLECTOR_EXCHANGES",
    "queue": "leave out 'declare' in EVENTCOLLECTOR_QUEUES",
}


def _look(channel: BlockingChannel, kind: str, name: str) -> None:
    if kind == "exchange":
        channel.exchange_declare(name, passive=True)
    else:
        channel.queue_declare(name, passive=True)


def _finding(step: Step, state: State, error: BaseException) -> Finding:
    reason = f"{broker_text(error)}: {cure(step, error)}"
    return Finding(step.kind, step.name, state, reason=reason)
