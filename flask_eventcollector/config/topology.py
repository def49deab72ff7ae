"""The exchanges, queues and bindings of the settings, together."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType

from ..errors import ConfigurationError
from .exchanges import (
    PLAIN_TYPES,
    PREDECLARED,
    Exchanges,
    Unrouted,
    is_predeclared,
    type_of,
)
from .queues import ARGUMENTS, DEAD_LETTERS, Binding, QueueOptions, Queues

#: Of redeliveries. https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
_NO_LIMIT = -1
_KEEP_THEM = f"set {DEAD_LETTERS!r} to keep them elsewhere"


@dataclass(frozen=True, slots=True)
class Topology:
    """What the settings say about the broker's exchanges, queues and bindings."""

    exchanges: Exchanges = field(default_factory=lambda: MappingProxyType({}))
    queues: Queues = field(default_factory=lambda: MappingProxyType({}))

    @property
    def bindings(self) -> Iterator[tuple[str, Binding]]:
        """Each binding, with the queue that it belongs to."""
        for queue, options in self.queues.items():
            for binding in options.bind:
                yield queue, binding


def check_topology(topology: Topology, exchanges_key: str, queues_key: str) -> None:
    """Check that the exchanges and the queues fit together.

    :param exchanges_key: the name of the setting with the exchanges, for errors.
    :param queues_key: the name of the setting with the queues.
    :raises ConfigurationError: they don't.
    """
    for queue, binding in topology.bindings:
        what = f"{queues_key}[{queue!r}]['bind'] has {str(binding)!r}"
        if not is_predeclared(binding.exchange):
            _check_known(binding.exchange, topology, what, exchanges_key)
        elif binding.exchange not in topology.exchanges:
            _check_spelling(binding.exchange, what)
        kind = type_of(binding.exchange, topology.exchanges)
        if kind in ("direct", "topic") and not binding.key:
            anything = f": write '{binding.exchange}:#' for all" * (kind == "topic")
            raise ConfigurationError(
                f"{what} without a routing key, which a {kind} exchange compares"
                f"{anything or ': add it after a colon'}"
            )
    for name, options in topology.exchanges.items():
        if options.alternate and options.alternate == name:
            raise ConfigurationError(
                f"{exchanges_key}[{name!r}] is its own alternate exchange: name another"
            )


def _check_spelling(name: str, what: str) -> None:
    """Check that *name*, which the broker reserves, is not one of its own misspelt."""
    close = difflib.get_close_matches(name, PREDECLARED, n=1, cutoff=0.8)
    if close and name not in PREDECLARED:
        raise ConfigurationError(
            f"{what}, but the broker has no such exchange: did you mean {close[0]!r}?"
        )


def _check_known(name: str, topology: Topology, what: str, key: str) -> None:
    if name in topology.exchanges:
        return
    close = difflib.get_close_matches(name, topology.exchanges, n=1)
    cure = (
        f"did you mean {close[0]!r}?"
        if close
        else f"add it there, with its type, or as {{{name!r}: {{}}}} if others declare"
        " it"
    )
    raise ConfigurationError(f"{what}, but {key} has no exchange {name!r}: {cure}")


def of_others(topology: Topology, exchange: str) -> list[tuple[str, str]]:
    """What the settings need, but leave to others to declare: kinds and names.

    :param exchange: the one that events go to by default.
    """
    found = [("exchange", name) for name in _exchanges_of_others(topology, exchange)]
    queues = topology.queues.items()
    return found + [("queue", name) for name, o in queues if not o.declare]


def _exchanges_of_others(topology: Topology, exchange: str) -> list[str]:
    needed = [exchange, *topology.exchanges]
    needed += [binding.exchange for _, binding in topology.bindings]
    needed += [options.alternate for options in topology.exchanges.values()]
    declared = [options for options in topology.queues.values() if options.declare]
    needed += [options.dead_letters_to for options in declared]
    known = {name for name, o in topology.exchanges.items() if o.is_declared}
    return [
        name
        for name in dict.fromkeys(needed)
        if name and name not in known and name not in PREDECLARED
    ]


def silent_losses(topology: Topology) -> list[str]:
    """What may lose messages without a trace, each with its cure.

    The settings show only a part of it: a policy of the broker may say more.
    """
    losses = []
    bound = {binding.exchange for _, binding in topology.bindings}
    for name, options in topology.queues.items():
        if options.declare:
            found = [*_losses_of_queue(options)]
            found += _dead_letters(options, topology.exchanges, bound)
            losses += [f"queue {name!r} {loss}" for loss in found]
    for name in topology.exchanges:
        losses += [
            f"exchange {name!r} {loss}" for loss in _of_exchange(name, topology, bound)
        ]
    return losses


def _losses_of_queue(options: QueueOptions) -> Iterator[str]:
    if not options.durable:
        yield (
            "is not durable, so a restart of the broker deletes it with its messages:"
            " leave out 'durable'"
        )
    if options.auto_delete:
        yield (
            "is deleted with its messages when its last consumer goes: leave out"
            " 'auto_delete'"
        )
    if "x-expires" in options.arguments:
        yield (
            "is deleted with its messages after 'x-expires' without a consumer: leave"
            " it out"
        )
    if "x-ha-policy" in options.arguments:
        yield (
            "is not mirrored by 'x-ha-policy', which RabbitMQ ignores: set 'type' to"
            " 'quorum'"
        )
    for name in sorted(set(options.arguments).difference(ARGUMENTS)):
        close = difflib.get_close_matches(name, ARGUMENTS, n=1, cutoff=0.85)
        if close:
            yield (
                f"has the argument {name!r}, which RabbitMQ ignores: did you mean"
                f" {close[0]!r}?"
            )
    if options.type != "stream" and DEAD_LETTERS not in options.arguments:
        yield from _dropped_messages(options)


def _dead_letters(
    options: QueueOptions, exchanges: Exchanges, bound: Collection[str]
) -> Iterator[str]:
    """What becomes of dead letters that nobody else is known to read.

    :param bound: the exchanges to which a queue of the settings is bound.
    """
    name = options.dead_letters_to
    known = exchanges.get(name)
    if known is None or not known.is_declared:
        return
    if name not in bound and not known.alternate:
        yield (
            f"has dead letters go to exchange {name!r}, to which no queue of the"
            " settings is bound: if nobody else binds one, they are lost. Bind one"
        )


def _dropped_messages(options: QueueOptions) -> Iterator[str]:
    """How a queue without dead letters drops messages."""
    arguments = options.arguments
    for limit in ("x-max-length", "x-max-length-bytes"):
        if limit in arguments and arguments.get("x-overflow") in (None, "drop-head"):
            yield (
                f"drops its oldest messages at {limit!r}: set 'x-overflow' to"
                f" 'reject-publish', so that events wait in the app, or {_KEEP_THEM}"
            )
    if "x-message-ttl" in arguments:
        yield f"drops messages older than 'x-message-ttl': {_KEEP_THEM}"
    if arguments.get("x-delivery-limit", _NO_LIMIT) != _NO_LIMIT:
        yield f"drops messages redelivered beyond 'x-delivery-limit': {_KEEP_THEM}"


def _of_exchange(
    name: str, topology: Topology, bound: Collection[str]
) -> Iterator[str]:
    options = topology.exchanges[name]
    alternate = options.alternate
    if alternate and alternate not in bound:
        yield (
            f"has the alternate exchange {alternate!r}, to which no queue of the"
            " settings is bound: if somebody else binds one, the broker confirms what"
            " goes there. Bind one, and read it"
        )
    if not options.mandatory and options.type in PLAIN_TYPES:
        yield (
            "is not mandatory, so the broker confirms what reaches no queue: leave out"
            f" 'mandatory', or set 'unrouted' to {Unrouted.DISCARD.value!r} to have it"
            " counted"
        )
    if options.is_declared and not options.durable:
        yield (
            "is not durable, so a restart of the broker deletes it with the bindings"
            " that others have made: leave out 'durable'"
        )
    if options.is_declared and options.auto_delete:
        yield (
            "is deleted when nothing is bound to it any more, and events for it wait"
            " until the next connect: leave out 'auto_delete'"
        )
