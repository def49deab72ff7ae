"""The part of the page that is about the broker."""

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
from .invoices import PlacedOrder, request_invoice_once
from .publishing import MAIL_SEND, ORDERS_CREATED, events

bp = Blueprint("broker", __name__, url_prefix="/broker")

#: Seconds that "Send now" waits for confirms.
FLUSH_TIMEOUT = 2.0

STATES = {
    BrokerState.READY: "Connected and responding.",
    BrokerState.IDLE: "No event was enqueued yet, so the app has not connected.",
    BrokerState.CONNECTING: "The app is making its first connection.",
    BrokerState.STALLED: "Confirms have stopped, so requests no longer wait for it.",
    BrokerState.BLOCKED: "An alarm blocks publishing; events are retained.",
    BrokerState.DOWN: "Unreachable; events are retained until it is back.",
    BrokerState.CLOSED: "This process has closed its connection.",
}


@bp.post("/flush")
def flush() -> ResponseReturnValue:
    """Try to empty the backlog now."""
    emptied = events.flush(timeout=FLUSH_TIMEOUT)
    return answer(
        "The backlog is empty." if emptied else "Some events are still waiting."
    )


@bp.post("/retry")
def retry() -> ResponseReturnValue:
    """Retry the dead events."""
    return answer(f"{_counted(events.retry())} retried.")


@bp.post("/purge")
def purge() -> ResponseReturnValue:
    """Drop the dead events."""
    dropped = events.purge([dead.event.id for dead in events.dead()])
    return answer(f"{_counted(dropped)} dropped.")


@bp.post("/down")
def go_down() -> ResponseReturnValue:
    """Make the embedded broker unreachable, as in an outage."""
    _faults_or_404().go_down()
    return answer("The broker is down.")


@bp.post("/up")
def come_up() -> ResponseReturnValue:
    """Make the embedded broker reachable again."""
    faults = _faults_or_404()
    faults.accept(MAIL_SEND)
    faults.come_up()
    return answer("The broker is up, with all its queues.")


@bp.post("/block")
def block() -> ResponseReturnValue:
    """Block the embedded broker, as RabbitMQ does when it is short of memory."""
    _faults_or_404().block()
    return answer("The broker is blocked.")


@bp.post("/lose-queue")
def lose_queue() -> ResponseReturnValue:
    """Make one queue of the embedded broker unavailable, but not the others."""
    _faults_or_404().refuse(MAIL_SEND)
    return answer(f"The queue {MAIL_SEND} no longer exists.")


@bp.post("/consume")
def consume() -> ResponseReturnValue:
    """Process one order, as ``example_app.worker`` does with RabbitMQ."""
    event = _embedded_or_404().get(ORDERS_CREATED)
    if event is None:
        return answer(f"The queue {ORDERS_CREATED} is empty.")
    if request_invoice_once(PlacedOrder.of(event.payload), message_id=event.id):
        return answer("Took one order from its queue and requested its invoice.")
    return answer("Took a second copy of an order from its queue: nothing to do.")


def embedded_broker() -> MemoryBroker | None:
    """Return the broker if it lives in this process."""
    broker = events.broker
    return broker if isinstance(broker, MemoryBroker) else None


def broker_name() -> str:
    """Describe the broker that the shop uses, without credentials."""
    if embedded_broker():
        return "the embedded broker, inside this process"
    return f"RabbitMQ at {', '.join(map(_address, broker_urls(current_app.config)))}"


def broker_urls(config: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the configured broker's hosts."""
    urls = config["EVENTCOLLECTOR_BROKER_URL"]
    return urls.split(";") if isinstance(urls, str) else list(urls)


def _counted(number: int) -> str:
    return "1 event" if number == 1 else f"{number} events"


def _address(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    return f"{parts.hostname or 'localhost'}:{port}"


def _embedded_or_404() -> MemoryBroker:
    return embedded_broker() or abort(404, "Only the embedded broker can do this.")


def _faults_or_404() -> FaultInjector:
    return FaultInjector.of(_embedded_or_404())
