"""Relays of others, each a process of its own that runs until a SIGTERM.

python -m benchmarks.outbox.peers NAME DATABASE BROKER
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pika
import psycopg
import sqlalchemy

#: Their table, filled by :data:`FILL`.
TABLE = "outbox"
#: Of the loop. That of txoutbox is its own.
LOOP_SCHEMA = f"""
CREATE TABLE {TABLE} (
    id BIGSERIAL PRIMARY KEY, topic TEXT NOT NULL, payload BYTEA NOT NULL
)
"""
LOOP, TXOUTBOX, TUNED = "hand-written loop", "txoutbox", "txoutbox, tuned"
#: Rows that the loop locks at a time.
_BATCH = 100
#: Seconds between two looks of the loop while there is nothing.
_PAUSE = 0.1


def main() -> None:
    name, database, broker = sys.argv[1:]
    dsn = sqlalchemy.make_url(database).set(drivername="postgresql")
    _RELAYS[name](dsn.render_as_string(hide_password=False), broker)


def txoutbox_schema() -> str:
    """Its table, as its README creates it.

    :raises ImportError: it is not installed, or what it is used with.
    """
    importlib.import_module("aio_pika")
    postgres = importlib.import_module("txoutbox.adapters.postgres")
    schema: str = postgres.PostgresStorage(None).schema_sql()
    return schema


def _loop(dsn: str, broker: str) -> None:
    """Lock rows, publish each and wait for its confirm, delete them, commit."""
    channel = pika.BlockingConnection(pika.URLParameters(broker)).channel()
    channel.confirm_delivery()
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            with connection.transaction():
                sent = _send_some(connection, channel)
            if not sent:
                time.sleep(_PAUSE)


def _send_some(connection: psycopg.Connection, channel: Any) -> int:
    rows = connection.execute(
        f"SELECT id, topic, payload FROM {TABLE} ORDER BY id"
        f" LIMIT {_BATCH} FOR UPDATE SKIP LOCKED"
    ).fetchall()
    for _, topic, payload in rows:
        properties = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", topic, payload, properties, mandatory=True)
    ids = [id for id, *_ in rows]
    connection.execute(f"DELETE FROM {TABLE} WHERE id = ANY(%s)", [ids])
    return len(rows)


def _txoutbox(dsn: str, broker: str) -> None:
    """As its README shows it, with the publisher that it leaves to its users."""
    asyncio.run(_run_txoutbox(dsn, broker, {}, {}))


def _tuned(dsn: str, broker: str) -> None:
    """The same with larger batches, more at a time, and rows deleted."""
    options = {"strict_ordering": False, "delete_on_ack": True}
    config = {"batch_size": 500, "concurrency": 100, "lease": timedelta(seconds=60)}
    asyncio.run(_run_txoutbox(dsn, broker, options, config))


async def _run_txoutbox(
    dsn: str, broker: str, options: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    txoutbox = importlib.import_module("txoutbox")
    postgres = importlib.import_module("txoutbox.adapters.postgres")
    aio_pika = importlib.import_module("aio_pika")
    storage = await postgres.PostgresStorage.connect(dsn, table=TABLE, **options)
    connection = await aio_pika.connect(broker)
    channel = await connection.channel(publisher_confirms=True)

    class Publisher:
        async def publish(self, message: Any) -> None:
            sent = aio_pika.Message(message.payload, delivery_mode=2)
            await channel.default_exchange.publish(sent, message.topic)

    relay = txoutbox.Relay(storage, Publisher(), config=txoutbox.RelayConfig(**config))
    await relay.run(handle_signals=True)
    await connection.close()
    await storage.close()


_RELAYS: Mapping[str, Callable[[str, str], None]] = {
    LOOP: _loop,
    TXOUTBOX: _txoutbox,
    TUNED: _tuned,
}

if __name__ == "__main__":
    main()
