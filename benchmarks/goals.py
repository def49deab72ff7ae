"""What the library must reach, beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from . import (
    backlog,
    enqueue_cost,
    metrics_cost,
    outage_cost,
    request_cost,
    retaining,
    serving,
    throughput,
    views,
)
from .frames import PAYLOAD
from .outbox import draining, holding, latency, peers, relays, transactions
from .results import Case, Key, Results, Spread
from .throughput import group, shape

_Figure = Callable[[Results], "Spread | None"]


@dataclass(frozen=True)
class Goal:
    """One figure, and its bound: the lowest or the highest value that is right."""

    text: str
    figure: _Figure
    least: float | None = None
    most: float | None = None
    #: Another bound from RabbitMQ 4 on.
    least_on_4: float | None = None

    def bound(self, version: str) -> str:
        return f"≤ {self.most:g}" if self.most else f"≥ {self._least(version):g}"

    def is_reached(self, measured: Spread, version: str) -> str:
        """``yes`` or ``no``, or ``unclear`` if the rounds contradict each other."""
        each = {self._holds(value, version) for value in measured}
        return "unclear" if len(each) > 1 else "yes" if each.pop() else "no"

    def _holds(self, value: float, version: str) -> bool:
        if self.most is not None:
            return value <= self.most
        return value >= self._least(version)

    def _least(self, version: str) -> float:
        on_4 = int(version.partition(".")[0]) >= 4
        least = self.least_on_4 if on_4 and self.least_on_4 else self.least
        assert least is not None
        return least


def goals() -> list[Goal]:
    return [
        *_throughput(),
        *_requests(),
        *_metrics(),
        *_outage(),
        *_enqueue(),
        *_backlog(),
        *_outbox(),
    ]


# Throughput, on classic queues

_CLASSIC = group("classic")


def _key(contestant: str, at: str) -> Key:
    case = Case(_CLASSIC, at)
    return Key("throughput", case, contestant, throughput.UNIT)


def _ratio(one: Key, to: Key) -> _Figure:
    return lambda results: results.ratio(one, to)


def _throughput() -> Iterator[Goal]:
    limit = _key(throughput.LIMIT, throughput.ONE_STREAM)
    node = _key(throughput.NODE, throughput.ONE_STREAM)
    blocking = _key(throughput.BLOCKING, shape(1, 1))
    for threads in (1, 8):
        at = shape(500, threads)
        ours = _key(throughput.OURS, at)
        yield Goal(f"{at} beside the limit", _ratio(ours, limit), 0.9, least_on_4=0.7)
        yield Goal(f"{at} beside {throughput.NODE}", _ratio(ours, node), 1.1)
        yield Goal(f"{at} beside pika, confirm each", _ratio(ours, blocking), 12)
    ours = _key(throughput.OURS, shape(20, 8))
    yield Goal("20 × 8 beside the limit", _ratio(ours, limit), 0.75, least_on_4=0.55)
    for at in (shape(20, 8), shape(5, 1)):
        pair = _key(throughput.OURS, at), _key(throughput.BARE, at)
        yield Goal(f"{at} beside bare sockets", _ratio(*pair), 0.8)
    yield from _beside_the_floor()


def _beside_the_floor() -> Iterator[Goal]:
    for batch, threads in throughput.SHAPES:
        at = shape(batch, threads)
        for ours, floor, how in (
            (throughput.OURS, throughput.FLOOR, "waiting"),
            (throughput.OURS_LATER, throughput.FLOOR_LATER, "not waiting"),
        ):
            pair = _key(ours, at), _key(floor, at)
            yield Goal(f"{at}, {how}, beside the floor", _ratio(*pair), 0.9)


# Requests, under gunicorn with 8 threads


def _request(view: str, events: int, unit: str = serving.RATE) -> Key:
    case = Case(serving.GTHREAD, request_cost.at(events))
    return Key("request-cost", case, view, unit)


def _requests() -> Iterator[Goal]:
    for events, least in ((1, 1.3), (5, 2.5)):
        pair = _request(views.OURS, events), _request(views.BLOCKING, events)
        text = f"requests/s at {request_cost.at(events)} beside {views.BLOCKING}"
        yield Goal(text, _ratio(*pair), least)
    for ours, floor in (
        (views.OURS, views.FLOOR),
        (views.OURS_LATER, views.FLOOR_LATER),
    ):
        pair = _request(ours, 5), _request(floor, 5)
        yield Goal(
            f"requests/s at 5 events: {ours} beside {floor}", _ratio(*pair), 0.85
        )
    pair = _request(views.SPOOL_LATER, 5), _request(views.OURS_LATER, 5)
    yield Goal("requests/s at 5 events: spool beside memory", _ratio(*pair), 0.9)
    cpu = [
        _request(view, 5, serving.CPU) for view in (views.OURS_LATER, views.NO_EVENTS)
    ]
    text = "worker's CPU for each of 5 events, not waiting, µs"
    yield Goal(text, lambda results: results.together(_fifth, *cpu), most=15)


def _metrics() -> Iterator[Goal]:
    case = Case(serving.GTHREAD, request_cost.at(metrics_cost.EVENTS))
    for without, with_metrics in metrics_cost.PAIRS:
        pair = (
            Key("metrics", case, view, serving.RATE) for view in (with_metrics, without)
        )
        text = f"requests/s at 5 events: {with_metrics} beside {without}"
        yield Goal(text, _ratio(*pair), 0.97)


def _fifth(with_events: float, without: float) -> float:
    return (with_events - without) / 5


def _outage() -> Iterator[Goal]:
    case = Case(outage_cost.GROUP, outage_cost.DOWN)
    ours, without = (
        Key("outage-cost", case, view, serving.P99)
        for view in (views.OURS, views.NO_EVENTS)
    )
    text = "p99 while the broker is down beside no events"
    yield Goal(text, _ratio(ours, without), most=1.2)


def _backlog() -> Iterator[Goal]:
    def key(contestant: str, retained: int, unit: str) -> Key:
        case = Case(backlog.GROUP, backlog.at(retained))
        return Key("backlog", case, contestant, unit)

    for store, retained in product(backlog.STORES, (backlog.MANY, backlog.MOST)):
        unit = retaining.UNIT_OF_WORK
        pair = key(store, retained, unit), key(store, 0, unit)
        text = f"unit of work with {backlog.at(retained)} retained beside 0, {store}"
        yield Goal(text, _ratio(*pair), most=1.1)
    rate = [
        key(contestant, backlog.DRAINED, retaining.DRAIN)
        for contestant in ("memory", backlog.THROUGHPUT)
    ]
    yield Goal("drain rate beside throughput", _ratio(rate[0], rate[1]), 0.9)
    memory = key("memory", backlog.MANY, retaining.MEMORY)
    text = "memory per retained event besides its payload, bytes"
    yield Goal(text, lambda results: results.together(_besides, memory), most=300)


def _besides(size: float) -> float:
    return size - len(json.dumps(PAYLOAD))


# Enqueueing, in one thread


def _enqueue() -> Iterator[Goal]:
    for at, most in (("256 B", 3.0), ("1 KB", 1.8)):
        case = Case("one thread", at)
        ours, dumps = (
            Key("enqueue-cost", case, contestant, enqueue_cost.UNIT)
            for contestant in (enqueue_cost.OURS, enqueue_cost.DUMPS)
        )
        text = f"`enqueue_event` beside `json.dumps`, {at}"
        yield Goal(text, _ratio(ours, dumps), most=most)


# The outbox


def _outbox() -> Iterator[Goal]:
    yield from _relay()
    for unit, most in ((latency.P50, 10), (latency.P99, 50)):
        case = Case(latency.GROUP, latency.AT)
        key = Key("outbox-latency", case, latency.OURS, unit)
        yield Goal(f"from the commit to the consumer, {unit}", _value(key), most=most)
    for database in transactions.DATABASES:
        case = Case(database, transactions.at(1))
        with_event, without = (
            Key("outbox-cost", case, contestant, transactions.UNIT)
            for contestant in (transactions.OURS_EXTERNAL, transactions.NO_EVENTS)
        )
        text = f"a transaction's first event in the outbox, {database}, ms"
        yield Goal(text, _difference(with_event, without), most=0.15)
    yield from _endurance()


def _relay() -> Iterator[Goal]:
    ours, *theirs = (
        Key("outbox", Case(relays.GROUP, relays.ONE), contestant, relays.UNIT)
        for contestant in (relays.OURS, peers.TXOUTBOX, peers.TUNED, peers.LOOP)
    )
    yield Goal("one relay, events/s", _value(ours), 12_000)
    for key, least in zip(theirs, (4, 2.5, 8), strict=True):
        yield Goal(f"one relay beside {key.contestant}", _ratio(ours, key), least)


def _endurance() -> Iterator[Goal]:
    first, *_, last = holding.TIMES
    held = [
        Key(
            "outbox-hold", Case(holding.GROUP, holding.at(n)), relays.OURS, holding.RATE
        )
        for n in (last, first)
    ]
    text = f"one relay after {last} s of an open transaction beside {first} s"
    yield Goal(text, _ratio(*held), 0.9)
    case = draining.case(draining.ROWS)
    for unit, text, bounds in (
        (draining.RATE, "rate", {"least": 0.9}),
        (draining.MEMORY, "memory", {"most": 1.1}),
    ):
        last_tenth, first_tenth = (
            Key("outbox-drain", case._replace(at=at), relays.OURS, unit)
            for at in (draining.TENTHS[-1], draining.TENTHS[0])
        )
        about = f"{case.group}: {text} in the last tenth beside the first"
        yield Goal(about, _ratio(last_tenth, first_tenth), **bounds)


def _value(key: Key) -> _Figure:
    return lambda results: results.spread(key)


def _difference(one: Key, other: Key) -> _Figure:
    return lambda results: results.together(lambda a, b: a - b, one, other)
