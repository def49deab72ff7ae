"""A worker that turns orders from RabbitMQ into invoice requests.

Run it with ``python -m example_app.worker``. What it notes about a message, the invoice
and the invoice's event, as a row of the outbox, are one transaction. The message is
acknowledged after its commit. So each order is handled once, and no event is lost.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from dataclasses import dataclass, field

import pika
from flask import Flask
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from pika.spec import Basic, BasicProperties
from sqlalchemy.exc import SQLAlchemyError

from flask_eventcollector import Received, received

from . import OUTBOX, create_app
from .broker import broker_urls
from .invoices import PlacedOrder, request_invoice_once
from .publishing import ORDERS_CREATED, events

log = logging.getLogger("example_app.worker")

URL_VARIABLE = "FLASK_EVENTCOLLECTOR_BROKER_URL"
NO_RABBITMQ = f"""\
The worker consumes from RabbitMQ, but {URL_VARIABLE} does not name a broker.
Set it for the shop and for the worker, for example:

    export {URL_VARIABLE}=amqp://guest:guest@localhost:5672/"""


@dataclass
class Worker:
    """Handles orders until it is told to stop."""

    app: Flask
    stop: threading.Event = field(default_factory=threading.Event)
    #: Seconds before a message is requeued, and between two connection attempts.
    pause: float = 1
    _is_disconnected: bool = field(default=False, init=False)

    def run(self) -> None:
        """Consume, and reconnect whenever the connection is lost."""
        with self.app.app_context():
            # Also looks for what a worker that was killed has left in the outbox.
            events.flush(timeout=0)
            while not self.stop.is_set():
                try:
                    self._consume()
                except (AMQPError, OSError) as error:
                    self._report_loss(error)
                    self.stop.wait(self.pause)
            events.close(timeout=5)

    def _consume(self) -> None:
        urls = broker_urls(self.app.config)
        queues = self.app.config["EVENTCOLLECTOR_QUEUES"]
        with pika.BlockingConnection([pika.URLParameters(url) for url in urls]) as conn:
            channel = conn.channel()
            channel.queue_declare(
                ORDERS_CREATED, durable=True, arguments=queues.get(ORDERS_CREATED)
            )
            channel.basic_qos(prefetch_count=10)
            channel.basic_consume(ORDERS_CREATED, self._on_message)
            self._is_disconnected = False
            log.info("waiting for orders")
            # The broker ends a consumer whose queue is deleted.
            while channel.consumer_tags and not self.stop.is_set():
                conn.process_data_events(time_limit=0.2)

    def _report_loss(self, error: Exception) -> None:
        """Log the loss once for each outage."""
        if not self._is_disconnected:
            log.warning("RabbitMQ is unreachable (%r), reconnecting", error)
        self._is_disconnected = True

    def _on_message(
        self,
        channel: BlockingChannel,
        method: Basic.Deliver,
        properties: BasicProperties,
        body: bytes,
    ) -> None:
        tag = method.delivery_tag
        if tag is None or self.stop.is_set():
            return  # unacknowledged messages are redelivered
        self.handle(channel, tag, properties, body)

    def handle(
        self,
        channel: BlockingChannel,
        tag: int,
        properties: BasicProperties,
        body: bytes,
    ) -> None:
        """Turn one order into a request for its invoice."""
        try:
            message = received(properties)
            order = PlacedOrder.of(json.loads(body))
        except (ValueError, RecursionError) as error:
            log.error("message %s rejected: %s", properties.message_id, error)
            channel.basic_reject(tag, requeue=False)
            return
        try:
            # The session ends with the app context.
            with self.app.app_context():
                first = request_invoice_once(order, message.id)
        except SQLAlchemyError as error:
            self._requeue(channel, tag, message, error)
            return
        channel.basic_ack(tag)
        self._report(message, first=first)

    def _requeue(
        self,
        channel: BlockingChannel,
        tag: int,
        message: Received,
        error: SQLAlchemyError,
    ) -> None:
        """Let the message be redelivered; the transaction was rolled back."""
        # Without the statement, whose parameters have no place in a log.
        why = getattr(error, "orig", None) or type(error).__name__
        log.warning("message %s goes back to its queue: %s", message.id, why)
        channel.connection.sleep(self.pause)  # keeps answering heartbeats
        channel.basic_nack(tag, requeue=True)

    def _report(self, message: Received, *, first: bool) -> None:
        """Log what was done."""
        marked = ", which may be a copy" if message.possible_duplicate else ""
        if first:
            log.info("invoice requested for message %s%s", message.id, marked)
        else:
            log.info("message %s was handled before%s", message.id, marked)


def main() -> int:
    """Run the worker until SIGTERM or SIGINT; returns its exit code."""
    # Whatever the shop does: the worker always has the outbox.
    app = create_app({OUTBOX: True})
    if not broker_urls(app.config)[0].startswith("amqp"):
        print(NO_RABBITMQ, file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    # pika logs each failed connection attempt several times; the worker logs it once.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    worker = Worker(app)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop.set())
    worker.run()
    log.info("stopped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
