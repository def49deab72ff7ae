"""What events add to a transaction that writes a row anyway.

python -m benchmarks.outbox.transactions DATABASE BROKER QUEUE EVENTS ROUNDS
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, LargeBinary, String, create_engine, insert, text
from sqlalchemy.orm import Mapped, Session, mapped_column, sessionmaker

from tests.rabbitmq import RabbitMQNode

from ..frames import PAYLOAD
from ..results import Benchmark, Case, Job
from ..rig import new_queue
from .arriving import answer, running
from .servers import MARIADB, POSTGRESQL, SQLITE, new_database
from .shop import EXTERNAL, OUTBOX, OWN, Base, Order, Shop

UNIT = "ms"
NO_EVENTS, OURS, OURS_EXTERNAL = "no events", "ours, own", "ours, external"
#: What any other statement costs, and what is written otherwise: a model for events.
SELECT, BY_HAND = "SELECT 1", "rows by hand"
#: The least that a row of the outbox can cost: nothing follows the transaction, and
#: SQLAlchemy makes no statement.
BY_DRIVER = "the outbox's rows, by the driver"
DATABASES = (POSTGRESQL, MARIADB, SQLITE)
EVENTS = (1, 5, 50)
#: Seconds after each transaction, in which its events are sent.
_PAUSE = 0.01
#: Rounds until all connections are open and warm.
_UNCOUNTED = 10


class Message(Base):
    """An event, as an outbox that is written by hand has it."""

    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    topic: Mapped[str] = mapped_column(String(255))
    payload: Mapped[bytes] = mapped_column(LargeBinary)


def at(events: int) -> str:
    return "1 event" if events == 1 else f"{events} events"


def jobs(quick: bool) -> list[Job]:
    rounds = 50 if quick else 150
    return [
        Job(
            Case(database, at(events)),
            (NO_EVENTS, SELECT, BY_HAND, BY_DRIVER, OURS, OURS_EXTERNAL),
            partial(costs, database, events, rounds),
        )
        for database in DATABASES
        for events in EVENTS
    ]


def costs(
    database: str, events: int, rounds: int, node: RabbitMQNode
) -> Mapping[str, Mapping[str, float]]:
    """The median time of a transaction, by what sends its events."""
    with new_database(database) as url, new_queue(node) as queue:
        command = ("-m", "benchmarks.outbox.transactions", url, node.url, queue)
        with running((*command, str(events), str(rounds))) as [process]:
            found: Mapping[str, float] = answer(process)
    return {name: {UNIT: 1e3 * seconds} for name, seconds in found.items()}


def main() -> None:
    """Print the medians in seconds."""
    database, broker, queue = sys.argv[1:4]
    events, rounds = map(int, sys.argv[4:])
    engine = create_engine(database)
    Base.metadata.create_all(engine)
    plain = sessionmaker(engine)
    # Of two names, since none may send the other's events.
    shops = {
        OURS: Shop(database, broker, OWN, "own"),
        OURS_EXTERNAL: Shop(database, broker, EXTERNAL, "external"),
    }
    payloads = [PAYLOAD] * events

    def order(and_then: Callable[[Session], object]) -> None:
        with plain() as session:
            session.add(Order(note="x" * 20))
            and_then(session)
            session.commit()

    def select(session: Session) -> None:
        session.flush()
        session.execute(text("SELECT 1"))

    def write(session: Session) -> None:
        bodies = (json.dumps(payload).encode() for payload in payloads)
        session.add_all(Message(topic=queue, payload=body) for body in bodies)

    statement, rows = _inserts(engine, queue, payloads)

    def write_by_driver(session: Session) -> None:
        session.flush()
        session.connection().exec_driver_sql(statement, rows)

    commits: dict[str, Callable[[], None]] = {
        NO_EVENTS: partial(order, lambda session: None),
        SELECT: partial(order, select),
        BY_HAND: partial(order, write),
        BY_DRIVER: partial(order, write_by_driver),
    }
    for name, shop in shops.items():
        commits[name] = partial(shop.order, queue, payloads)
    print(json.dumps(_medians(commits, rounds)), flush=True)
    for shop in shops.values():
        shop.close()


def _inserts(
    engine: Engine, queue: str, payloads: Iterable[object]
) -> tuple[str, list[Any]]:
    """The driver's own statement for rows of the outbox, and its parameters.

    Their app is none of ours, so that nobody sends them.
    """
    bodies = [json.dumps(payload).encode() for payload in payloads]
    rows = [
        {
            "app": "driver",
            "maybe_sent": False,
            "exchange": "",
            "target_queue": queue,
            "event_id": str(uuid4()),
            "enqueued_at": time.time_ns() // 1000,
            "size": len(body),
            "headers": "",
            "body": body,
        }
        for body in bodies
    ]
    compiled = insert(OUTBOX).compile(engine, column_keys=list(rows[0]))
    if compiled.positional:
        order = compiled.positiontup or ()
        return str(compiled), [tuple(row[name] for name in order) for row in rows]
    return str(compiled), rows


def _medians(
    commits: Mapping[str, Callable[[], None]], rounds: int
) -> Mapping[str, float]:
    """How long each takes; they take turns.

    Each after an uncounted one of its kind, since the first after a pause finds all
    caches cold, and before a pause, in which what it left for later is done.
    """
    times: dict[str, list[float]] = {name: [] for name in commits}
    turns = list(commits.items())
    order = random.Random(1)
    for _ in range(_UNCOUNTED + rounds):
        order.shuffle(turns)
        for name, commit in turns:
            commit()
            began = time.perf_counter()
            commit()
            times[name].append(time.perf_counter() - began)
            time.sleep(_PAUSE)
    return {
        name: statistics.median(found[_UNCOUNTED:]) for name, found in times.items()
    }


BENCHMARK = Benchmark(
    name="outbox-cost",
    title="Outbox: a transaction that writes a row, with events of 256 bytes",
    baseline=NO_EVENTS,
    units=(UNIT,),
    jobs=jobs,
)

if __name__ == "__main__":
    main()
