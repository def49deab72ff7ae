"""How many events a second one relay takes from a table into a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy import Engine, NullPool, create_engine, text

from tests.rabbitmq import RabbitMQNode

from ..results import Benchmark, Case, Job, Unavailable
from . import peers
from .arriving import check_order, new_watch, running
from .servers import POSTGRESQL, new_database
from .shop import EXTERNAL, NAME, OUTBOX, OWN, RELAY, Base, environment

UNIT = "events/s"
OURS, OURS_OWN = "ours, external", "ours, own"
GROUP, ONE, SEVERAL = POSTGRESQL, "one relay", "8 workers, 3 relays"
#: In one round of the full form, at what takes the longest for each.
EVENTS = 48_000
#: Of the app that sends what it commits: its threads, and events in a transaction.
_THREADS, _IN_TRANSACTION = 4, 50

_WRITING = ("-m", "benchmarks.outbox.writing")

#: 256 bytes of JSON with the number of the row.
_PAYLOAD = (
    """convert_to(rpad('{"n": ' || n || ', "note": "', 254, 'x') || '"}', 'UTF8')"""
)
_OURS = f"""
INSERT INTO {OUTBOX.name} (
    app, maybe_sent, exchange, target_queue, event_id, enqueued_at, size, headers, body
) SELECT
    '{NAME}', false, '', :queue, gen_random_uuid()::text,
    EXTRACT(EPOCH FROM clock_timestamp()) * 1000000, 256, '{{"table": {{}}}}',
    {_PAYLOAD}
FROM generate_series(CAST(:first AS BIGINT), CAST(:last AS BIGINT)) n
"""
_THEIRS = f"""
INSERT INTO {peers.TABLE} (topic, payload) SELECT :queue, {_PAYLOAD}
FROM generate_series(CAST(:first AS BIGINT), CAST(:last AS BIGINT)) n
"""


class Table(NamedTuple):
    """A table of events, which one statement fills."""

    create: Callable[[Engine], None]
    insert: str

    def fill(self, engine: Engine, queue: str, first: int, last: int) -> None:
        """Add the events with the numbers from *first* to *last*."""
        values = {"queue": queue, "first": first, "last": last}
        with engine.begin() as connection:
            connection.execute(text(self.insert), values)


def _theirs(schema: Callable[[], str]) -> Table:
    def create(engine: Engine) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(schema())

    return Table(create, _THEIRS)


OUR_TABLE = Table(Base.metadata.create_all, _OURS)


class Relay(NamedTuple):
    """A process that sends what is in its table."""

    table: Table
    #: Python's arguments, without the URLs that peers take.
    command: Sequence[str]
    is_ordered: bool
    #: What the number of events is divided by: the slow ones would take too long.
    divisor: int


def _peer(
    name: str, schema: Callable[[], str], divisor: int, *, is_ordered: bool
) -> Relay:
    command = ("-m", "benchmarks.outbox.peers", name)
    return Relay(_theirs(schema), command, is_ordered, divisor)


RELAYS = {
    peers.LOOP: _peer(peers.LOOP, lambda: peers.LOOP_SCHEMA, 12, is_ordered=True),
    peers.TXOUTBOX: _peer(peers.TXOUTBOX, peers.txoutbox_schema, 6, is_ordered=False),
    peers.TUNED: _peer(peers.TUNED, peers.txoutbox_schema, 4, is_ordered=False),
    OURS: Relay(OUR_TABLE, RELAY, True, 1),
}


def jobs(quick: bool) -> list[Job]:
    events = EVENTS // 5 if quick else EVENTS
    found = [
        _job(ONE, name, partial(relay_rate, relay, events // relay.divisor))
        for name, relay in RELAYS.items()
    ]
    found.append(_job(ONE, OURS_OWN, partial(own_rate, events // 2)))
    found.append(_job(SEVERAL, OURS, partial(rate_of_several, events // 2)))
    return found


def _job(at: str, contestant: str, run: partial[Mapping[str, float]]) -> Job:
    return Job.of_one(Case(GROUP, at), contestant, run)


def relay_rate(relay: Relay, events: int, node: RabbitMQNode) -> Mapping[str, float]:
    """The rate of one relay that finds all rows in its table."""
    with new_database(POSTGRESQL) as url, new_watch(node) as (queue, arrived):
        # Without a pool, no connection is left if a package is missing.
        engine = create_engine(url, poolclass=NullPool)
        try:
            relay.table.create(engine)
        except ImportError as error:
            raise Unavailable(f"a package is missing ({error})") from error
        relay.table.fill(engine, queue, 1, events)
        settle(engine)
        urls = () if relay.table is OUR_TABLE else (url, node.url)
        ours = environment(url, node.url, EXTERNAL)
        with running((*relay.command, *urls), environment=ours):
            rate = arrived.rate(events)
        if relay.is_ordered:
            check_order(node, queue, events)
    return {UNIT: rate}


def settle(engine: Engine) -> None:
    """Let the database do now what it would do at some time later."""
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")


def own_rate(events: int, node: RabbitMQNode) -> Mapping[str, float]:
    """The rate of an app that writes and sends, from its first event to its last."""
    return _written_rate((events, _THREADS, _IN_TRANSACTION), 1, 0, OWN, node)


def rate_of_several(events: int, node: RabbitMQNode) -> Mapping[str, float]:
    """The rate of eight apps that write and three relays, of which one is active."""
    return _written_rate((events // 8, 1, 5), 8, 3, EXTERNAL, node)


def _written_rate(
    work: tuple[int, int, int],
    writers: int,
    relays: int,
    relay: str,
    node: RabbitMQNode,
) -> Mapping[str, float]:
    """The rate of what so many *writers* commit.

    :param work: of each: its events, threads, and events in a transaction.
    """
    with new_database(POSTGRESQL) as url, new_watch(node) as (queue, arrived):
        writer = (*_WRITING, queue, *map(str, work))
        engine = create_engine(url)
        Base.metadata.create_all(engine)
        engine.dispose()
        ours = environment(url, node.url, relay)
        with running(*[RELAY] * relays, *[writer] * writers, environment=ours):
            rate = arrived.rate(writers * work[0])
    return {UNIT: rate}


BENCHMARK = Benchmark(
    name="outbox",
    title="Outbox: confirmed events of 256 bytes, from rows of PostgreSQL",
    baseline=peers.LOOP,
    units=(UNIT,),
    jobs=jobs,
)
