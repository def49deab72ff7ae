"""Two copies of a message at the same time, and workers that are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.consuming.support import Consumer, seen
from tests.helpers import DEADLINE, unmeasured, wait_until

ROOT = Path(__file__).parents[2]

#: How many transactions wait for another one; SQLite doesn't tell.
WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
    # Its tables of locks are refreshed only if nobody has asked for a while.
    "mysql": (
        "SELECT count(*) FROM information_schema.processlist"
        " WHERE info LIKE 'INSERT IGNORE%'"
    ),
}

#: Does the work of a message, and waits before it commits.
WORKER = """
import sys
from tests.consuming.support import consumer_on
with consumer_on(sys.argv[1]) as consumer, consumer.session() as session:
    print(consumer.handle(session), flush=True)
    sys.stdin.read()
    session.commit()
"""


class Twin(threading.Thread):
    """Handles the same message in another thread, and commits."""

    def __init__(self, consumer: Consumer) -> None:
        super().__init__(daemon=True)
        self._consumer = consumer
        self.is_first: bool | None = None
        self.error: OperationalError | None = None
        self.begun = threading.Event()

    def run(self) -> None:
        with self._consumer.session() as session:
            self.begun.set()
            try:
                self.is_first = self._consumer.handle(session)
            except OperationalError as error:
                self.error = error
                session.rollback()
            else:
                session.commit()

    def ended(self) -> bool | None:
        self.join(DEADLINE)
        assert not self.is_alive()
        assert self.error is None
        return self.is_first


@contextmanager
def waiting_twins(consumer: Consumer, number: int = 1) -> Iterator[list[Twin]]:
    """Twins that wait for a transaction of the caller, as far as one can see that."""
    twins = [Twin(consumer) for _ in range(number)]
    for twin in twins:
        twin.start()
        assert twin.begun.wait(DEADLINE)
    query = WAITING.get(consumer.engine.dialect.name)
    if query is not None:
        wait_until(lambda: waiting(consumer, query) >= number, "they wait")
    yield twins


def waiting(consumer: Consumer, query: str) -> int:
    with consumer.engine.connect() as connection:
        return connection.scalar(sqlalchemy.text(query)) or 0


def test_a_twin_waits_and_sees_the_commit(consumer: Consumer) -> None:
    with consumer.session() as session:
        assert consumer.handle(session)
        with waiting_twins(consumer) as (twin,):
            assert twin.is_first is None
            session.commit()
            assert twin.ended() is False

    assert consumer.count() == 1


def test_a_twin_is_first_if_the_other_rolls_back(consumer: Consumer) -> None:
    with consumer.session() as session:
        assert consumer.handle(session)
        with waiting_twins(consumer) as (twin,):
            session.rollback()
            assert twin.ended() is True

    assert consumer.count() == consumer.count(seen) == 1


def test_a_twin_is_first_if_the_others_block_fails_and_is_committed(
    consumer: Consumer,
) -> None:
    def fail(session: Session) -> None:
        with consumer.once(session):
            raise ZeroDivisionError

    with consumer.session() as session:
        with pytest.raises(ZeroDivisionError):
            fail(session)
        with waiting_twins(consumer) as (twin,):
            session.commit()
            assert twin.ended() is True


def test_of_many_twins_one_does_the_work(consumer: Consumer) -> None:
    twins = [Twin(consumer) for _ in range(8)]
    for twin in twins:
        twin.start()

    assert sorted(str(twin.ended()) for twin in twins) == ["False"] * 7 + ["True"]
    assert consumer.count() == consumer.count(seen) == 1


def test_of_several_that_waited_for_a_rollback_one_does_the_work(
    consumer: Consumer,
) -> None:
    with consumer.session() as session:
        assert consumer.handle(session)
        with waiting_twins(consumer, 3) as twins:
            session.rollback()
            for twin in twins:
                twin.join(DEADLINE)

    # MariaDB ends some with a deadlock: their messages are redelivered.
    assert [twin.is_first for twin in twins].count(True) == 1
    failed = [twin for twin in twins if twin.error is not None]
    assert not failed or "Deadlock" in str(failed[0].error)
    assert consumer.count() == consumer.count(seen) == 1


# Isolation levels.


@contextmanager
def snapshot(consumer: Consumer, level: str) -> Iterator[Session]:
    """A session whose transaction at this level has begun to read."""
    with Session(consumer.engine.execution_options(isolation_level=level)) as session:
        session.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(seen))
        yield session


def handle_elsewhere(consumer: Consumer) -> None:
    with consumer.session() as session:
        assert consumer.handle(session)
        session.commit()


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_postgresql_refuses_what_its_snapshot_can_t_see(
    on_postgresql: Consumer, level: str
) -> None:
    with snapshot(on_postgresql, level) as session:
        handle_elsewhere(on_postgresql)
        if level == "READ COMMITTED":
            assert on_postgresql.handle(session) is False
        else:
            with pytest.raises(OperationalError, match="could not serialize access"):
                on_postgresql.handle(session)
            # The redelivered message is a copy.
            session.rollback()
            assert on_postgresql.handle(session) is False


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_mariadb_sees_the_row_at_each_level(on_mariadb: Consumer, level: str) -> None:
    with snapshot(on_mariadb, level) as session:
        handle_elsewhere(on_mariadb)
        assert on_mariadb.handle(session) is False


# Processes.


@contextmanager
def worker(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has done the work of the message, and has not committed."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, url],
        cwd=ROOT,
        env=unmeasured(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def commit(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=3 * DEADLINE)
    assert process.returncode == 0


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE)


@pytest.mark.parametrize(("end", "is_first"), [(commit, False), (kill, True)])
def test_a_message_of_another_process_is_first_again_if_that_was_killed(
    consumer: Consumer,
    database_url: str,
    end: Callable[[subprocess.Popen[str]], None],
    is_first: bool,
) -> None:
    with worker(database_url) as process, waiting_twins(consumer) as (twin,):
        end(process)
        assert twin.ended() is is_first

    with consumer.session() as session:
        assert consumer.handle(session) is False
    assert consumer.count() == consumer.count(seen) == 1
