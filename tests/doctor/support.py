"""An app that is set up soundly, and whatever is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask

from flask_eventcollector import EventCollector
from flask_eventcollector.app_state import state_of
from flask_eventcollector.doctor import broker, spool
from flask_eventcollector.doctor.case import Case
from flask_eventcollector.doctor.checks import CHECKS
from flask_eventcollector.doctor.examination import examine
from flask_eventcollector.doctor.findings import Finding, Level
from flask_eventcollector.errors import ConfigurationError
from flask_eventcollector.events import Stats
from flask_eventcollector.monitoring.history import records
from flask_eventcollector.monitoring.history.writer import HistoryWriter
from tests.helpers import DEADLINE
from tests.rabbitmq import RabbitMQNode

#: Of another app, or of the shell in which the tests run.
_FOREIGN = (
    "GUNICORN_CMD_ARGS",
    "PROMETHEUS_MULTIPROC_DIR",
    "WEB_CONCURRENCY",
)


class Patient:
    """An app in production, in order as long as nobody plants a mistake."""

    def __init__(
        self,
        request: pytest.FixtureRequest,
        node: RabbitMQNode,
        folder: Path,
        patch: pytest.MonkeyPatch,
    ) -> None:
        self._request = request
        self.node = node
        self.folder = folder
        self.patch = patch
        #: Ends what a mistake needs.
        self.until_the_end = ExitStack()
        self.spool = folder / "spool"
        #: The names of its exchange and its queue, which no other test uses.
        self.exchange, self.queue = f"shop-{uuid4().hex}", f"orders-{uuid4().hex}"
        self.settings: dict[str, Any] = {
            "BROKER_URL": node.url,
            "BACKLOG": "spool",
            "SPOOL_DIR": str(self.spool),
            "HISTORY_DIR": str(folder / "history"),
            "METRICS": "prometheus",
            "EXCHANGE": self.exchange,
            "EXCHANGES": {self.exchange: {"type": "topic"}},
            "QUEUES": {self.queue: {"bind": [f"{self.exchange}:orders.#"]}},
        }
        #: Done once the app is created.
        self.later: list[Callable[[Patient], object]] = []
        self.app = Flask("shop", instance_path=str(folder))
        self.events = EventCollector()
        #: Of its outbox.
        self.table: Any = None
        patch.setattr(spool, "type_of", lambda path: "ext4")
        # A busy machine is no mistake.
        patch.setattr(broker, "_SLOW", DEADLINE)
        patch.chdir(folder)
        for name in _FOREIGN:
            patch.delenv(name, raising=False)
        for name in [name for name in os.environ if "EVENTCOLLECTOR_" in name]:
            patch.delenv(name)
        self.declare()

    def declare(self) -> None:
        """Declare what the settings say."""
        with self.node.channel() as channel:
            channel.exchange_declare(self.exchange, "topic", durable=True)
            channel.queue_declare(self.queue, durable=True)
            channel.queue_bind(self.queue, self.exchange, "orders.#")

    def fixture(self, name: str) -> Any:
        """What another fixture gives."""
        return self._request.getfixturevalue(name)

    def create(self) -> None:
        """Create the app as its factory does."""
        self.app.config.update(
            {f"EVENTCOLLECTOR_{key}": value for key, value in self.settings.items()}
        )
        self.events.init_app(self.app)
        for change in self.later:
            change(self)

    def case(self) -> Case:
        state = state_of(self.app)
        assert state is not None
        with self.app.app_context():
            return Case(state)

    def examine(self) -> list[Finding]:
        return examine(self.case(), CHECKS, lambda _: None)

    def close(self) -> None:
        self.patch.undo()
        self.until_the_end.close()
        # One with an outbox that can't be used can't be closed, either.
        with suppress(ConfigurationError):
            self.events.close(0)
        with self.node.channel() as channel:
            channel.queue_delete(self.queue)
            channel.exchange_delete(self.exchange)


def complaints(findings: list[Finding]) -> list[Finding]:
    """All that is not in order."""
    return [finding for finding in findings if finding.level is not Level.OK]


def say(patient: Patient, pid: int = 4711, **stats: Any) -> None:
    """Leave what a running process says about itself."""
    writer = HistoryWriter(Path(patient.settings["HISTORY_DIR"]), "shop")
    writer.pid = pid
    writer.begin()
    patient.until_the_end.callback(writer.end)
    writer.write_counts(Stats(**stats).as_dict())
    # A busy machine may take long to read it.
    patient.patch.setattr(records, "SILENT_AFTER", DEADLINE)
