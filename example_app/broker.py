"""The broker's side of the page: its state, its backlog and, embedded, its faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, abort, current_app
from flask.typing import ResponseReturnValue

from flask_eventcollector import BrokerState
from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.testing import FaultInjector

from .answers import answer
from .invoices import request_invoice
from .publishing import MAIL_SEND, ORDERS_CREATED, events

bp = Blueprint("broker", __name__, url_prefix="/broker")

#: Seconds that "send now" waits for what waits.
FLUSH_TIMEOUT = 2.0

STATES = {
    BrokerState.READY: "It answers.",
    BrokerState.IDLE: "Nothing was enqueued yet, so nobody has called it.",
    BrokerState.CONNECTING: "The first connection is being made.",
    BrokerState.STALLED: "It has stopped confirming; nobody waits for it.",
    BrokerState.BLOCKED: "It takes nothing because of an alarm; events are kept.",
    BrokerState.DOWN: "It is away; events are kept until it is back.",
    BrokerState.CLOSED: "This process has ended its work with it.",
}


@bp.post("/flush")
def flush() -> ResponseReturnValue:
    """Try to empty the backlog now."""
    emptied = events.flush(timeout=FLUSH_TIMEOUT)
    return answer("The backlog is empty." if emptied else "Some events still wait.")


@bp.post("/retry")
def retry() -> ResponseReturnValue:
    """Send again what was set aside."""
    return answer(f"Sent again: {events.retry()}.")


@bp.post("/purge")
def purge() -> ResponseReturnValue:
    """Drop what was set aside."""
    dropped = events.purge([dead.event.id for dead in events.dead()])
    return answer(f"Dropped: {dropped}.")


@bp.post("/down")
def go_down() -> ResponseReturnValue:
    """Take the embedded broker away, as an outage would."""
    _faults_or_404().go_down()
    return answer("The broker is down.")


@bp.post("/up")
def come_up() -> ResponseReturnValue:
    """Let the embedded broker answer again."""
    faults = _faults_or_404()
    faults.accept(MAIL_SEND)
    faults.come_up()
    return answer("The broker is up, with all its queues.")


@bp.post("/block")
def block() -> ResponseReturnValue:
    """Let the embedded broker take nothing, as RabbitMQ does when memory is short."""
    _faults_or_404().block()
    return answer("The broker is blocked.")


@bp.post("/lose-queue")
def lose_queue() -> ResponseReturnValue:
    """Let one queue be missing on the embedded broker; the others are served."""
    _faults_or_404().refuse(MAIL_SEND)
    return answer(f"The queue {MAIL_SEND} is gone.")


@bp.post("/consume")
def consume() -> ResponseReturnValue:
    """Do by hand, for one order, what ``example_app.worker`` does on RabbitMQ."""
    event = _embedded_or_404().get(ORDERS_CREATED)
    if event is None:
        return answer(f"There is nothing in {ORDERS_CREATED}.")
    request_invoice(event.payload, message_id=event.id)
    return answer("One order taken from its queue, one invoice requested.")


def embedded_broker() -> MemoryBroker | None:
    """Return the broker if it lives in this process."""
    broker = events.broker
    return broker if isinstance(broker, MemoryBroker) else None


def broker_name() -> str:
    """Return which broker the shop is on, without credentials."""
    if embedded_broker():
        return "the embedded broker, inside this process"
    return f"RabbitMQ at {', '.join(map(_address, broker_urls(current_app.config)))}"


def broker_urls(config: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the configured broker's hosts."""
    urls = config["EVENTCOLLECTOR_BROKER_URL"]
    return urls.split(";") if isinstance(urls, str) else list(urls)


def _address(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    return f"{parts.hostname or 'localhost'}:{port}"


def _embedded_or_404() -> MemoryBroker:
    return embedded_broker() or abort(404, "Only the embedded broker can do this.")


def _faults_or_404() -> FaultInjector:
    return FaultInjector.of(_embedded_or_404())
