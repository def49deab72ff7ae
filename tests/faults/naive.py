"""What most tutorials show instead: publish in teardown, over a `BlockingConnection`.

Each thread has its own connection and reconnects after an error. Each event is
confirmed; an event that fails twice is logged and lost. It has the library's interface,
as far as the app under test uses it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import flask
import pika
from flask import Flask
from pika.adapters.blocking_connection import BlockingChannel

from flask_eventcollector import Stats

logger = logging.getLogger(__name__)


class NaiveCollector:
    """Collects in `flask.g`, publishes when a request has succeeded."""

    def __init__(self, app: Flask) -> None:
        self._url = app.config["EVENTCOLLECTOR_BROKER_URL"]
        self._here = threading.local()
        app.teardown_request(self._publish_all)

    def enqueue_event(
        self,
        payload: Any,
        queue: str,
        *,
        exchange: str = "",
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish this at the end of the request."""
        if not hasattr(flask.g, "events"):
            flask.g.events = []
        body = json.dumps(payload).encode()
        flask.g.events.append((exchange, queue, body, headers))

    def stats(self) -> Stats:
        """It has no counts."""
        return Stats()

    def _publish_all(self, error: BaseException | None) -> None:
        events = flask.g.pop("events", [])
        if error is not None:
            return
        for event in events:
            try:
                self._publish_twice(*event)
            except Exception:
                logger.exception("An event could not be published")

    def _publish_twice(self, *event: Any) -> None:
        try:
            self._publish(*event)
        except pika.exceptions.AMQPError:
            self._here.channel = None
            self._publish(*event)

    def _publish(
        self, exchange: str, queue: str, body: bytes, headers: dict[str, Any] | None
    ) -> None:
        persistent = pika.BasicProperties(delivery_mode=2, headers=headers)
        self._channel().basic_publish(exchange, queue, body, persistent, mandatory=True)

    def _channel(self) -> BlockingChannel:
        channel: BlockingChannel | None = getattr(self._here, "channel", None)
        if channel is None:
            connection = pika.BlockingConnection(pika.URLParameters(self._url))
            channel = self._here.channel = connection.channel()
            channel.confirm_delivery()
        return channel
