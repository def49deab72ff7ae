"""Settings that type checkers must accept."""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from flask_eventcollector import EventCollector, Settings


def never(status: int | None, exception: BaseException | None) -> bool:
    """Publish nothing."""
    return False


production: Settings = {
    "EVENTCOLLECTOR_BROKER_URL": ["amqp://one.example", "amqp://two.example"],
    "EVENTCOLLECTOR_KEYFILE_PASSWORD": "made up",
    "EVENTCOLLECTOR_EXCHANGE": "shop",
    "EVENTCOLLECTOR_QUEUES": {"orders": {"x-queue-type": "quorum"}, "mail": None},
    "EVENTCOLLECTOR_EXCHANGES": {"shop": {"type": "topic", "durable": True}},
    "EVENTCOLLECTOR_PUBLISH_ON": never,
    "EVENTCOLLECTOR_CONFIRM_TIMEOUT": 0.5,
    "EVENTCOLLECTOR_BACKLOG": "spool",
    "EVENTCOLLECTOR_SPOOL_DIR": Path("/var/lib/shop/spool"),
    "EVENTCOLLECTOR_SPOOL_SYNC": "full",
    "EVENTCOLLECTOR_MAX_EVENTS": 1_000,
    "EVENTCOLLECTOR_MAX_BYTES": 1024 * 1024,
    "EVENTCOLLECTOR_MAX_DEAD_EVENTS": 1_000,
    "EVENTCOLLECTOR_OVERFLOW": "reject",
    "EVENTCOLLECTOR_MAX_IN_FLIGHT": 100,
    "EVENTCOLLECTOR_DEAD_AFTER": 60,
    "EVENTCOLLECTOR_RETRY_DELAY": 0.1,
    "EVENTCOLLECTOR_RETRY_MAX_DELAY": 30,
    "EVENTCOLLECTOR_SHUTDOWN_TIMEOUT": 5,
    "EVENTCOLLECTOR_MAX_EVENT_BYTES": 1024,
    "EVENTCOLLECTOR_HEARTBEAT": 10,
    "EVENTCOLLECTOR_AUTOFLUSH": True,
    "EVENTCOLLECTOR_HISTORY_DIR": "/var/lib/shop/history",
    "EVENTCOLLECTOR_METRICS": ["prometheus"],
    "EVENTCOLLECTOR_TESTING_BROKER": False,
}
tests: Settings = {
    "EVENTCOLLECTOR_BROKER_URL": "memory://",
    "EVENTCOLLECTOR_PUBLISH_ON": "always",
    "EVENTCOLLECTOR_SPOOL_DIR": "/tmp/spool",
    "EVENTCOLLECTOR_SPOOL_NAME": "shop",
    "EVENTCOLLECTOR_OVERFLOW": "drop-oldest",
}
unset: Settings = {
    "EVENTCOLLECTOR_BROKER_URL": None,
    "EVENTCOLLECTOR_SPOOL_DIR": None,
    "EVENTCOLLECTOR_SPOOL_NAME": None,
}
tests["EVENTCOLLECTOR_BACKLOG"] = "memory"

app = Flask(__name__)
app.config.from_mapping(production)
app.config.from_mapping(tests, TESTING=True)
EventCollector(app)
