"""A small shop that demonstrates Flask-EventCollector."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from flask import Flask

from . import answers, broker, cli, orders, page, same_origin
from .event_log import EventLog
from .models import db, init_db
from .publishing import QUEUES, bind_session, events

#: The shop's own switch. The library has no such setting, but `bind_session()`.
OUTBOX = "EVENTCOLLECTOR_OUTBOX"

DEFAULTS: dict[str, Any] = {
    # The session holds flash messages and nothing else.
    "SECRET_KEY": secrets.token_hex(),
    "SQLALCHEMY_DATABASE_URI": "sqlite:///shop.sqlite3",
    # FLASK_EVENTCOLLECTOR_BROKER_URL=amqp://… puts the shop on RabbitMQ.
    "EVENTCOLLECTOR_BROKER_URL": "memory://",
    "EVENTCOLLECTOR_QUEUES": QUEUES,
    # FLASK_EVENTCOLLECTOR_BACKLOG=spool stores unconfirmed events in instance/.
    "EVENTCOLLECTOR_BACKLOG": "memory",
    # FLASK_EVENTCOLLECTOR_OUTBOX=1 lets transactions write their events.
    OUTBOX: False,
    # Small enough to demonstrate a limit on the page.
    "EVENTCOLLECTOR_MAX_EVENTS": 2_000,
    "EVENTCOLLECTOR_DEAD_AFTER": 60,
    "EVENTCOLLECTOR_RETRY_MAX_DELAY": 10,
}


def create_app(test_config: Mapping[str, Any] | None = None) -> Flask:
    """Create the shop, which ``FLASK_…`` variables configure."""
    app = Flask(__name__)
    app.config.from_mapping(DEFAULTS)
    app.config.from_prefixed_env()
    app.config.from_mapping(test_config)
    app.config["SHOP_OUTBOX"] = bool(app.config.pop(OUTBOX))

    db.init_app(app)
    events.init_app(app)
    bind_session(outbox=app.config["SHOP_OUTBOX"])
    EventLog().init_app(app)
    same_origin.init_app(app)
    answers.init_app(app)
    cli.init_app(app)
    for module in (page, orders, broker):
        app.register_blueprint(module.bp)
    if app.debug:
        # For a browser on this machine alone.
        app.register_blueprint(events.dashboard(allow_actions=True, show_payloads=True))
    if app.debug and find_spec("flask_debugtoolbar"):
        _add_toolbar(app)
    with app.app_context():
        init_db()
    return app


def _add_toolbar(app: Flask) -> None:
    """Show the events of the last requests on the page."""
    from flask_debugtoolbar import DebugToolbarExtension

    app.config["DEBUG_TB_PANELS"] = ["flask_eventcollector.debugtoolbar.EventsPanel"]
    DebugToolbarExtension(app)
