"""What most tutorials show as an outbox: a table, and a loop beside the workers.

    python -m tests.faults.naive_outbox

The rows commit with the state. As a cron job would, each turn of the loop connects to
the broker, sends 100 unsent rows over a `BlockingConnection` with confirms, and then
marks them as sent. An error ends the turn, and the next one begins a second later.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import pika
from sqlalchemy import Connection, insert, select, update

from flask_eventcollector import Stats
from tests.faults.state import NAIVE_OUTBOX, State, open_engine

logger = logging.getLogger(__name__)

#: Rows that are sent in one transaction.
CHUNK = 100
#: Seconds between two turns.
INTERVAL = 1.0


class NaiveOutbox:
    """Writes events as rows, with the library's interface as far as it is used."""

    def __init__(self, state: State) -> None:
        self._state = state

    def enqueue_event(
        self,
        payload: Any,
        queue: str,
        *,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Write this in the current transaction."""
        row = {"queue": queue, "body": json.dumps(payload).encode(), "sent": False}
        self._state.sessions.execute(insert(NAIVE_OUTBOX).values(row))

    def stats(self) -> Stats:
        """It has no counts."""
        return Stats()


def send_some(connection: Connection, send: Callable[[str, bytes], object]) -> int:
    """Send the first rows; returns how many."""
    c = NAIVE_OUTBOX.c
    unsent = select(NAIVE_OUTBOX).where(~c.sent).order_by(c.id).limit(CHUNK)
    rows = connection.execute(unsent).all()
    for row in rows:
        send(row.queue, row.body)
        sent = update(NAIVE_OUTBOX).where(c.id == row.id).values(sent=True)
        connection.execute(sent)
    return len(rows)


def send_all(database: str, broker: str) -> None:
    """One turn."""
    engine = open_engine(database)
    amqp = pika.BlockingConnection(pika.URLParameters(broker))
    try:
        channel = amqp.channel()
        channel.confirm_delivery()

        def send(queue: str, body: bytes) -> None:
            persistent = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish("", queue, body, persistent, mandatory=True)

        count = CHUNK
        while count == CHUNK:
            with engine.begin() as connection:
                count = send_some(connection, send)
    finally:
        engine.dispose()
        amqp.close()


def main() -> None:
    database = os.environ["FLASK_FAULTS_DATABASE"]
    broker = os.environ["FLASK_EVENTCOLLECTOR_BROKER_URL"]
    while True:
        try:
            send_all(database, broker)
        except Exception:
            logger.exception("The turn has failed")
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main()
