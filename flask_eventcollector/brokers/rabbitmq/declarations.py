"""What the settings declare, as steps."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...config.exchanges import ExchangeOptions
from ...config.queues import Binding, QueueOptions
from ...config.topology import Topology

_QUEUES, _EXCHANGES = "EVENTCOLLECTOR_QUEUES", "EVENTCOLLECTOR_EXCHANGES"
#: Seconds for which a step is left out over which connections end. The broker may only
#: have had a moment of trouble.
_LEFT_OUT_FOR = 60.0


class Phase(enum.IntEnum):
    """What is declared before what."""

    EXCHANGES = 0
    QUEUES = 1
    BINDINGS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One declaration or binding."""

    phase: Phase
    #: The exchange or the queue.
    name: str
    #: The arguments of pika's method.
    values: Mapping[str, Any] = field(hash=False)

    def __str__(self) -> str:
        if self.phase is Phase.BINDINGS:
            source = f"{self.values['exchange']}:{self.values['routing_key']}"
            return f"binding {source!r} of queue {self.name!r}"
        return f"{self.kind} {self.name!r}"

    @property
    def kind(self) -> str:
        """``exchange``, ``queue`` or ``binding``."""
        return _KINDS[self.phase]

    @property
    def setting(self) -> str:
        """The setting that it comes from."""
        return _EXCHANGES if self.phase is Phase.EXCHANGES else _QUEUES

    @property
    def method(self) -> str:
        """AMQP's name of what is sent."""
        return _METHODS[self.phase].replace("_", ".")

    def send(self, channel: Any, **more: Any) -> Any:
        """Send it on a channel of pika, with *more* arguments for pika's method."""
        return getattr(channel, _METHODS[self.phase])(**self.values, **more)


_KINDS = {
    Phase.EXCHANGES: "exchange",
    Phase.QUEUES: "queue",
    Phase.BINDINGS: "binding",
}
_METHODS = {
    Phase.EXCHANGES: "exchange_declare",
    Phase.QUEUES: "queue_declare",
    Phase.BINDINGS: "queue_bind",
}


def steps(topology: Topology) -> Iterator[Step]:
    """All steps, in an order in which they can be taken."""
    for name, exchange in topology.exchanges.items():
        if exchange.is_declared:
            yield _exchange(name, exchange)
    for name, queue in topology.queues.items():
        if queue.declare:
            yield _queue(name, queue)
    for name, binding in topology.bindings:
        if topology.queues[name].declare:
            yield _binding(name, binding)


def _exchange(name: str, options: ExchangeOptions) -> Step:
    values = {
        "exchange": name,
        "exchange_type": options.type,
        "durable": options.durable,
        "auto_delete": options.auto_delete,
        "internal": options.internal,
        "arguments": dict(options.arguments),
    }
    return Step(Phase.EXCHANGES, name, values)


def _queue(name: str, options: QueueOptions) -> Step:
    values = {
        "queue": name,
        "durable": options.durable,
        "auto_delete": options.auto_delete,
        "arguments": dict(options.arguments),
    }
    return Step(Phase.QUEUES, name, values)


def _binding(queue: str, binding: Binding) -> Step:
    values = {
        "queue": queue,
        "exchange": binding.exchange,
        "routing_key": binding.key,
        "arguments": dict(binding.arguments),
    }
    return Step(Phase.BINDINGS, queue, values)


class Declarations:
    """The steps of each new connection, over the life of a process.

    The broker closes a connection over some of them, such as an exchange whose plugin
    is missing. The next connection takes those that were on their way one by one. The
    one over which it is closed again is left out for a while.
    """

    def __init__(
        self, topology: Topology, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps = list(steps(topology))
        self._clock = clock
        self._suspects: list[Step] = []
        #: By the names of steps: why they are left out, and until when.
        self._left_out: dict[str, tuple[str, float]] = {}

    def left_out(self) -> dict[str, str]:
        """Why some steps are not taken now, by their names."""
        now = self._clock()
        return {name: why for name, (why, end) in self._left_out.items() if now < end}

    def rounds(self) -> list[list[Step]]:
        """The steps to take; those of one round may be taken at the same time."""
        left_out = self.left_out()
        found = [step for step in self._steps if str(step) not in left_out]
        rounds = []
        for phase in Phase:
            here = [step for step in found if step.phase is phase]
            rounds.append([step for step in here if step not in self._suspects])
            rounds += [[step] for step in here if step in self._suspects]
        return [steps for steps in rounds if steps]

    def blame(self, among: Collection[Step], reason: str, *, is_sure: bool) -> None:
        """The broker has closed the connection over one of the steps *among* these.

        :param is_sure: whether nothing else can have been the cause.
        """
        if is_sure and len(among) == 1:
            (step,) = among
            why = (
                f"{step} is left out, since the connection ended over it: {reason}:"
                f" correct {step.setting}. It is tried again with the first connection"
                " after a minute"
            )
            self._left_out[str(step)] = (why, self._clock() + _LEFT_OUT_FOR)
        self._suspects += [step for step in among if step not in self._suspects]
