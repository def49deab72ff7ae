"""The app that is examined, and what its checks have learned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from ..app_state import AppState
from ..brokers.rabbitmq.logins import Logins
from ..brokers.rabbitmq.questions import Questions
from ..brokers.rabbitmq.trials import Connect, open_connection
from ..config.broker_url import MEMORY, BrokerURL
from ..config.settings import (
    Config,
    choose_broker,
    choose_credentials,
    choose_spool_name,
)
from ..errors import ConfigurationError
from ..monitoring.history.reader import History
from ..monitoring.history.records import Counts
from ..stores.spool.folder import holder_of

#: Seconds that a node may take to answer.
PATIENCE = 3.0
#: Seconds after which an event should be sent, unless the broker refuses it.
LONG = 60.0
#: Seconds in which a process that sends has sent something.
LOOK = 2.5


class Case:
    """One app; its checks are made one after the other.

    Make it in the app's context.
    """

    def __init__(self, state: AppState) -> None:
        self.state = state
        self.app = state.app
        bound = state.sessions.outbox
        #: The engine of the outbox. Found here, in the app's context; ``None``: there
        #: is no outbox, or it is not known.
        self.engine = bound and bound.engine()
        #: The node that has answered; ``None``: none has.
        self.node: BrokerURL | None = None
        #: Whether the outbox's tables can be read.
        self.has_tables = False

    @property
    def config(self) -> Config:
        """The settings as they were read."""
        return self.state.config

    @property
    def nodes(self) -> tuple[BrokerURL, ...]:
        """The nodes of the broker, which may be ``memory://``; none: no URL is set."""
        try:
            return choose_broker(self.config, self.app)
        except ConfigurationError:
            return ()

    @property
    def has_broker(self) -> bool:
        """Whether events leave this process."""
        return self.nodes not in ((), (MEMORY,))

    def processes(self) -> set[int]:
        """The running processes of the app that can be known here, but not this one."""
        found = {counts.pid for counts in self.running()}
        spool = self.state.spool_folder()
        with suppress(OSError):
            found |= {holder_of(path) or 0 for path in (spool.files() if spool else ())}
        return found - {0, os.getpid()}

    def counts(self) -> list[Counts]:
        """What the app's other running processes have counted last, if it is known."""
        history = self.history()
        if history is None:
            return []
        with suppress(OSError):
            return [one for one in history.counts() if one.pid != os.getpid()]
        return []

    def history(self) -> History | None:
        """What the app's processes write down; ``None``: nothing."""
        folder = self.config.history_dir
        if folder is None:
            return None
        return History(folder, choose_spool_name(self.config, self.app))

    def running(self) -> list[Counts]:
        """The same, of those that are still counting."""
        return [counts for counts in self.counts() if counts.is_current]

    def connecting(self, node: BrokerURL) -> Connect:
        """A function that connects to *node*."""
        config, name = self.config, self.app.name
        logins = Logins(choose_credentials(config), config.keyfile_password, name)
        heartbeat = node.number("heartbeat") or config.heartbeat
        return partial(
            open_connection, node, heartbeat, name, logins, patience=PATIENCE
        )

    @contextmanager
    def asking(self, node: BrokerURL) -> Iterator[Questions]:
        """Questions to *node*, on a connection that ends with the block."""
        questions = Questions(self.connecting(node))
        try:
            yield questions
        finally:
            questions.close()


def address(node: BrokerURL) -> str:
    """Where a node is, without any credential."""
    vhost = "" if node.vhost == "/" else node.vhost
    host = f"[{node.host}]" if ":" in node.host else node.host
    return f"{node.scheme}://{host}:{node.port}/{vhost}"
