"""Private databases; the servers are shared by all jobs of a run."""

from __future__ import annotations

import atexit
import functools
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import create_engine

from tests.databases import (
    DatabaseServer,
    MariaDB,
    PostgreSQL,
    missing_mariadb,
    missing_postgresql,
)

from ..results import Unavailable

POSTGRESQL, MARIADB, SQLITE = "PostgreSQL", "MariaDB", "SQLite"

#: The server, and what it is missing.
_SERVERS: Mapping[str, tuple[type[DatabaseServer], Callable[[], str | None]]] = {
    POSTGRESQL: (PostgreSQL, missing_postgresql),
    MARIADB: (MariaDB, missing_mariadb),
}


#: The versions of those that were used.
versions: dict[str, str] = {}


@contextmanager
def new_database(name: str) -> Iterator[str]:
    """The URL of an empty database.

    :raises Unavailable: its server is not installed.
    """
    if name in _SERVERS:
        url = _server(name).new_database()
        versions[name] = versions.get(name) or _version(url)
        yield url
        return
    versions[name] = sqlite3.sqlite_version
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/shop.sqlite3"


@functools.cache
def _server(name: str) -> DatabaseServer:
    """The server, which runs until this process ends."""
    kind, missing = _SERVERS[name]
    if what := missing():
        raise Unavailable(f"{what} is not installed")
    server = kind()
    atexit.register(server.close)
    server.start()
    return server


def _version(url: str) -> str:
    engine = create_engine(url)
    with engine.connect() as connection:
        numbers = connection.dialect.server_version_info or ()
    engine.dispose()
    return ".".join(map(str, numbers[:3]))
