"""The private database servers of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.pool import NullPool

from tests.conftest import require
from tests.databases import (
    DatabaseServer,
    MariaDB,
    PostgreSQL,
    missing_mariadb,
    missing_postgresql,
)
from tests.helpers import unmeasured, wait_until

ROOT = Path(__file__).parents[1]
KINDS = {
    PostgreSQL: missing_postgresql,
    MariaDB: missing_mariadb,
}

pytestmark = pytest.mark.database

#: Starts a server, and says where.
START = """
import time
from tests.databases import {kind}
server = {kind}()
server.start()
print(server.folder, server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    require(KINDS[request.param]())
    server: DatabaseServer = request.param()
    try:
        server.start()
        yield server
    finally:
        server.close()


def ask(url: str, *statements: str) -> object:
    """The first column of the last statement's first row, all in one transaction."""
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements[:-1]:
            connection.execute(sqlalchemy.text(statement))
        return connection.execute(sqlalchemy.text(statements[-1])).scalar()


def test_what_was_committed_survives_a_kill_and_a_stop(server: DatabaseServer) -> None:
    url = server.new_database()
    ask(url, "CREATE TABLE t (a INT)", "INSERT INTO t VALUES (7)", "SELECT 1")
    for end in (server.kill, server.stop):
        end()
        assert not server.is_running
        server.start()
        assert ask(url, "SELECT a FROM t") == 7
    server.close()
    assert not server.folder.exists()


def test_no_other_mariadb_removes_the_temporary_tables(mariadb: MariaDB) -> None:
    url = mariadb.new_database()
    assert ask(url, "SELECT @@tmpdir") == str(mariadb.folder)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_ends_with_the_process_that_started_it(kind: type[DatabaseServer]) -> None:
    require(KINDS[kind]())
    with subprocess.Popen(
        [sys.executable, "-c", START.format(kind=kind.__name__)],
        cwd=ROOT,
        env=unmeasured(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not Path(folder).exists(), "its folder is removed")
    status = Path(f"/proc/{pid}/status")
    wait_until(
        lambda: not status.exists() or "State:\tZ" in status.read_text(), "it has ended"
    )
