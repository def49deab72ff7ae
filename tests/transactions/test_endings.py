"""A table of how transactions end, and what becomes of the events enqueued in them.

Each row is one unit of work. Whatever it does, an event of an order is published if,
and only if, the order is in the database.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import Connection, Engine, bindparam, delete, insert, text, update
from sqlalchemy.exc import DatabaseError, IntegrityError, StatementError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.databases import DatabaseServer
from tests.helpers import Shop
from tests.transactions.support import (
    NOT_COMMITTED,
    ORDERS,
    ROLLED_BACK,
    Order,
    Visit,
    Work,
    open_engine,
    stored,
    url_in,
)

PUBLISHED = "published"


class Row(NamedTuple):
    """One way to end transactions."""

    does: Callable[[Work], None]
    #: What becomes of each event: it is published, or discarded for a reason.
    fates: dict[str, str]
    #: Whether all events are about orders that are written with them.
    orders: bool = True

    def __str__(self) -> str:
        return self.does.__name__


ROWS: list[Row] = []


def row(
    *, orders: bool = True, **fates: str
) -> Callable[[Callable[[Work], None]], Callable[[Work], None]]:
    def add(does: Callable[[Work], None]) -> Callable[[Work], None]:
        ROWS.append(Row(does, fates, orders))
        return does

    return add


class Refused(Exception):
    """What a row raises, and catches, itself."""


# Whole transactions.


@row(a=PUBLISHED)
def commit(work: Work) -> None:
    work.place("a")
    work.session.commit()


@row(a=ROLLED_BACK)
def rollback(work: Work) -> None:
    work.place("a")
    work.session.rollback()


@row(a=NOT_COMMITTED)
def close(work: Work) -> None:
    work.place("a")
    work.session.close()


@row(a=NOT_COMMITTED)
def forget(work: Work) -> None:
    # Closed after the unit of work.
    work.place("a")


@row(a=PUBLISHED, b=ROLLED_BACK, c=PUBLISHED)
def several_in_turn(work: Work) -> None:
    work.place("a")
    work.session.commit()
    work.place("b")
    work.session.rollback()
    work.place("c")
    work.session.commit()


@row(a=PUBLISHED)
def begin_block(work: Work) -> None:
    with work.session.begin():
        work.place("a")


@row(a=ROLLED_BACK)
def begin_block_that_raises(work: Work) -> None:
    with contextlib.suppress(Refused), work.session.begin():
        work.place("a")
        raise Refused


@row(a=ROLLED_BACK)
def session_block_that_raises(work: Work) -> None:
    with contextlib.suppress(Refused), work.session:
        work.place("a")
        raise Refused


@row(a=NOT_COMMITTED)
def session_block_without_a_commit(work: Work) -> None:
    with work.session:
        work.place("a")


# Savepoints.


@row(a=PUBLISHED, b=PUBLISHED, c=PUBLISHED)
def savepoint_released(work: Work) -> None:
    work.place("a")
    with work.session.begin_nested():
        work.place("b")
    work.place("c")
    work.session.commit()


@row(a=PUBLISHED, b=ROLLED_BACK, c=PUBLISHED)
def savepoint_rolled_back(work: Work) -> None:
    work.place("a")
    savepoint = work.session.begin_nested()
    work.place("b")
    savepoint.rollback()
    work.place("c")
    work.session.commit()


@row(a=PUBLISHED, b=ROLLED_BACK)
def savepoint_that_raises(work: Work) -> None:
    work.place("a")
    with contextlib.suppress(Refused), work.session.begin_nested():
        work.place("b")
        raise Refused
    work.session.commit()


@row(a=ROLLED_BACK, b=ROLLED_BACK)
def savepoint_released_and_all_rolled_back(work: Work) -> None:
    work.place("a")
    with work.session.begin_nested():
        work.place("b")
    work.session.rollback()


@row(a=NOT_COMMITTED, b=NOT_COMMITTED)
def savepoint_released_and_forgotten(work: Work) -> None:
    work.place("a")
    with work.session.begin_nested():
        work.place("b")


@row(a=NOT_COMMITTED, b=NOT_COMMITTED)
def savepoint_and_all_forgotten(work: Work) -> None:
    work.place("a")
    work.session.begin_nested()
    work.place("b")
    work.session.close()


@row(a=ROLLED_BACK, b=ROLLED_BACK)
def rollback_within_a_savepoint(work: Work) -> None:
    work.place("a")
    work.session.begin_nested()
    work.place("b")
    work.session.rollback()


@row(a=PUBLISHED, b=PUBLISHED)
def commit_within_a_savepoint(work: Work) -> None:
    work.place("a")
    work.session.begin_nested()
    work.place("b")
    work.session.commit()


@row(a=PUBLISHED, b=ROLLED_BACK, c=ROLLED_BACK, d=PUBLISHED)
def two_levels_the_outer_rolled_back(work: Work) -> None:
    work.place("a")
    outer = work.session.begin_nested()
    work.place("b")
    with work.session.begin_nested():
        work.place("c")
    outer.rollback()
    work.place("d")
    work.session.commit()


@row(a=PUBLISHED, b=PUBLISHED, c=ROLLED_BACK, d=PUBLISHED)
def two_levels_the_inner_rolled_back(work: Work) -> None:
    work.place("a")
    with work.session.begin_nested():
        work.place("b")
        inner = work.session.begin_nested()
        work.place("c")
        inner.rollback()
        work.place("d")
    work.session.commit()


@row(a=ROLLED_BACK, b=PUBLISHED)
def two_savepoints_in_turn(work: Work) -> None:
    first = work.session.begin_nested()
    work.place("a")
    first.rollback()
    with work.session.begin_nested():
        work.place("b")
    work.session.commit()


# Flushes.


@row(a=ROLLED_BACK)
def failed_flush(work: Work) -> None:
    work.place("a")
    work.session.expunge_all()
    work.session.add(Order(sku="a"))
    with pytest.raises(IntegrityError):
        work.session.flush()
    work.session.rollback()


@row(a=ROLLED_BACK, b=PUBLISHED, orders=False)
def failed_flush_is_told_of(work: Work) -> None:
    # The database has rolled back: an event about that belongs to nothing any more.
    work.place("a")
    work.session.expunge_all()
    work.session.add(Order(sku="a"))
    with pytest.raises(IntegrityError):
        work.session.commit()
    work.tell("b")
    work.session.rollback()


@row(a=PUBLISHED, b=ROLLED_BACK)
def failed_flush_in_a_savepoint(work: Work) -> None:
    work.place("a")
    work.session.expunge_all()
    with contextlib.suppress(IntegrityError), work.session.begin_nested():
        work.place("b")
        work.session.add(Order(sku="a"))
    work.session.commit()


@row(a=ROLLED_BACK, orders=False)
def failed_flush_before_its_first_statement(work: Work) -> None:
    work.read()
    work.tell("a")
    work.session.add(Visit(kind="wrong"))
    with pytest.raises(StatementError):
        work.session.commit()
    work.session.rollback()


@row(a=ROLLED_BACK, orders=False)
def failed_first_statement(work: Work) -> None:
    work.write("x")
    work.session.commit()
    work.session.expunge_all()
    work.read()
    work.tell("a")
    work.session.add(Order(sku="x"))
    with pytest.raises(IntegrityError):
        work.session.commit()
    work.session.rollback()


# What was not flushed.


@row(a=NOT_COMMITTED)
def added_but_never_flushed(work: Work) -> None:
    work.session.add(Order(sku="a"))
    work.tell("a")


@row(a=NOT_COMMITTED)
def added_afterwards_but_never_flushed(work: Work) -> None:
    work.read()
    work.tell("a")
    work.session.add(Order(sku="a"))
    work.session.close()


@row(a=NOT_COMMITTED, orders=False)
def added_as_it_was_but_never_flushed(work: Work) -> None:
    work.read()
    work.tell("a")
    work.session.add(Visit())
    work.session.close()


@row(a=ROLLED_BACK)
def added_and_rolled_back_unflushed(work: Work) -> None:
    work.read()
    work.tell("a")
    work.session.add(Order(sku="a"))
    work.session.rollback()


@row(a=NOT_COMMITTED, orders=False)
def changed_but_never_flushed(work: Work) -> None:
    order = work.write("x")
    work.session.commit()
    order.note = "paid"
    work.tell("a")


@row(a=NOT_COMMITTED, orders=False)
def changed_afterwards_but_never_flushed(work: Work) -> None:
    order = work.write("x")
    work.session.commit()
    work.read()
    work.tell("a")
    order.note = "paid"


@row(a=ROLLED_BACK, orders=False)
def deleted_and_rolled_back_unflushed(work: Work) -> None:
    order = work.write("x")
    work.session.commit()
    work.session.delete(order)
    work.tell("a")
    work.session.rollback()


@row(a=PUBLISHED, orders=False)
def set_to_what_it_was(work: Work) -> None:
    order = work.write("x")
    work.session.commit()
    order.note = order.note
    work.tell("a")


# Transactions that write nothing.


@row(a=PUBLISHED, orders=False)
def read_and_close(work: Work) -> None:
    work.read()
    work.tell("a")
    work.session.close()


@row(a=PUBLISHED, orders=False)
def read_and_roll_back(work: Work) -> None:
    work.read()
    work.tell("a")
    work.session.rollback()


@row(a=PUBLISHED, orders=False)
def read_and_leave_open(work: Work) -> None:
    work.read()
    work.tell("a")


@row(a=PUBLISHED, b=PUBLISHED, orders=False)
def commit_then_enqueue_then_read(work: Work) -> None:
    order = work.write("a")
    work.session.commit()
    work.tell("a")
    assert order.sku == "a"
    work.tell("b")


@row(a=PUBLISHED)
def enqueue_before_the_write(work: Work) -> None:
    work.read()
    work.tell("a")
    work.write("a")
    work.session.commit()


@row(a=ROLLED_BACK)
def enqueue_before_a_write_that_is_rolled_back(work: Work) -> None:
    work.read()
    work.tell("a")
    work.write("a")
    work.session.rollback()


@row(a=PUBLISHED, orders=False)
def enqueue_before_the_transaction(work: Work) -> None:
    work.tell("a")
    work.write("x")
    work.session.rollback()


@row(a=ROLLED_BACK, orders=False)
def savepoint_that_wrote_nothing_in_a_rolled_back_transaction(work: Work) -> None:
    work.write("x")
    savepoint = work.session.begin_nested()
    work.tell("a")
    savepoint.rollback()
    work.session.rollback()


@row(a=ROLLED_BACK, orders=False)
def transaction_that_wrote_only_in_a_savepoint(work: Work) -> None:
    work.read()
    work.tell("a")
    with work.session.begin_nested():
        work.write("x")
    work.session.rollback()


@row(a=PUBLISHED, orders=False)
def transaction_that_wrote_only_in_a_savepoint_that_is_rolled_back(work: Work) -> None:
    work.read()
    work.tell("a")
    savepoint = work.session.begin_nested()
    work.write("x")
    savepoint.rollback()
    work.session.rollback()


@row(a=PUBLISHED, orders=False)
def savepoint_that_wrote_nothing_in_a_committed_transaction(work: Work) -> None:
    work.write("x")
    savepoint = work.session.begin_nested()
    work.tell("a")
    savepoint.rollback()
    work.session.commit()


# Writing without the unit of work of the ORM.

INSERT = text("INSERT INTO orders (sku, note) VALUES ('a', '')")


def _written_by(statement: Callable[[Session], object]) -> Callable[[Work], None]:
    def does(work: Work) -> None:
        statement(work.session)
        work.tell("a")
        work.session.rollback()

    return does


for name, statement in {
    "core_insert": lambda s: s.execute(insert(ORDERS).values(sku="a", note="")),
    "core_inserts": lambda s: s.execute(
        insert(ORDERS), [{"sku": "a", "note": ""}, {"sku": "b", "note": ""}]
    ),
    "core_update": lambda s: s.execute(update(ORDERS).values(note="x")),
    "core_delete": lambda s: s.execute(delete(ORDERS)),
    "bulk_insert": lambda s: s.bulk_insert_mappings(Order, [{"sku": "a", "note": ""}]),
    "text": lambda s: s.execute(INSERT),
    "text_with_a_comment": lambda s: s.execute(
        text("-- a\n/* b */ update orders SET note = 'x'")
    ),
    "text_with_a_query": lambda s: s.execute(
        text("WITH a AS (SELECT 'x' AS note) DELETE FROM orders WHERE sku = 'x'")
    ),
    "driver_sql": lambda s: s.connection().exec_driver_sql("DELETE FROM orders"),
    "connection": lambda s: s.connection().execute(
        insert(ORDERS).values(sku=bindparam("b"), note=""), {"b": "a"}
    ),
}.items():
    does = _written_by(statement)
    does.__name__ = name
    ROWS.append(Row(does, {"a": ROLLED_BACK}))


@row(a=PUBLISHED, orders=False)
def text_that_reads(work: Work) -> None:
    for query in (
        "SELECT 'INSERT INTO orders' AS update_set",
        "WITH latest AS (SELECT sku AS deleted FROM orders) SELECT * FROM latest",
    ):
        work.session.execute(text(query)).all()
    work.tell("a")


# The runs of the table.


def run(row: Row, shop: Shop, session: Session) -> None:
    """Run *row* as one unit of work, and check what became of its events."""
    with shop.events.capture() as captured:
        with shop.events.auto_publish():
            row.does(Work(shop, session))
        session.close()
        found = {
            event.payload: event.reason or event.fate.value
            for event in captured.enqueued
        }
    assert found == row.fates
    # Nothing was published before its commit, and all of it is accounted for.
    published = sum(fate == PUBLISHED for fate in row.fates.values())
    counts = {"confirmed": published, "discarded": len(row.fates) - published}
    assert shop.books() == {name: count for name, count in counts.items() if count}


def check_state(row: Row, bind: Engine | Connection) -> None:
    """No ghost, and no zombie."""
    if row.orders:
        kept = sorted(sku for sku, fate in row.fates.items() if fate == PUBLISHED)
        assert stored(bind) == kept


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_in_memory(row: Row, shop: Shop, engine: Engine) -> None:
    session = scoped_session(sessionmaker(engine))
    shop.events.bind_session(session)

    run(row, shop, session())

    check_state(row, engine)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_in_a_file(row: Row, shop: Shop, tmp_path: Path) -> None:
    with open_engine(url_in(tmp_path)) as engine:
        maker = sessionmaker(engine)
        shop.events.bind_session(maker)

        run(row, shop, maker())

        check_state(row, engine)


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    server: DatabaseServer = request.getfixturevalue(request.param)
    return server.new_database()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_on_a_server(row: Row, shop: Shop, server_url: str) -> None:
    if str(row) == "text_with_a_query" and "postgresql" not in server_url:
        pytest.skip("MariaDB can't delete with a query")
    with open_engine(server_url) as engine:
        maker = sessionmaker(engine)
        shop.events.bind_session(maker)

        run(row, shop, maker())

        check_state(row, engine)


@contextmanager
def rolled_back(engine: Engine) -> Iterator[Connection]:
    """What a fixture does that rolls each test back."""
    with engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_in_an_outer_transaction_of_a_test(
    row: Row, shop: Shop, engine: Engine
) -> None:
    with rolled_back(engine) as connection:
        session = Session(connection, join_transaction_mode="create_savepoint")
        shop.events.bind_session(session)

        run(row, shop, session)

        check_state(row, connection)
    assert stored(engine) == []


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_without_a_bound_session_all_is_published(
    row: Row, shop: Shop, engine: Engine
) -> None:
    with Session(engine) as session, shop.events.auto_publish():
        row.does(Work(shop, session))

    assert sorted(shop.sent()) == sorted(row.fates)


#: What changes something, in the words of some database.
WRITING = [
    "INSERT INTO orders VALUES ('b', '')",
    " (UPDATE orders SET note = '')",
    "/* a */ -- b\n# c\nDELETE FROM orders",
    "REPLACE INTO orders VALUES ('b', '')",
    "MERGE INTO orders USING other ON true WHEN MATCHED THEN DELETE",
    "COPY orders FROM STDIN",
    "TRUNCATE orders",
    "CALL place('b')",
    "EXECUTE place",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE orders",
    "DO $$ BEGIN DELETE FROM orders; END $$",
    "DO LANGUAGE plpgsql 'BEGIN DELETE FROM orders; END'",
    "EXPLAIN ANALYZE DELETE FROM orders",
    "WITH x AS (SELECT 1) INSERT INTO orders SELECT 'b', '' FROM x",
    "WITH x AS (SELECT 1) INSERT OR REPLACE INTO orders SELECT 'b', '' FROM x",
    "WITH x AS (SELECT 1) REPLACE INTO orders SELECT 'b', '' FROM x",
    "WITH x AS (SELECT 1) MERGE INTO orders USING x ON true WHEN MATCHED THEN DELETE",
    "WITH x AS (DELETE FROM orders RETURNING sku) SELECT * FROM x",
    "WITH x AS (UPDATE orders SET note = '' RETURNING sku) SELECT * FROM x",
    "WITH x AS (UPDATE shop.orders AS o SET note = '' RETURNING sku) SELECT * FROM x",
    "WITH x AS (UPDATE orders o\nSET note = '' RETURNING sku) SELECT * FROM x",
    "WITH x AS (UPDATE ONLY orders SET note = '' RETURNING sku) SELECT * FROM x",
    "WITH x AS (UPDATE \"my orders\" SET note = '' RETURNING 1) SELECT * FROM x",
    "WITH x AS (SELECT 1) UPDATE OR IGNORE `my orders` SET note = ''",
]
#: What only reads, or locks.
READING = [
    "SELECT sku FROM orders",
    "SELECT sku FROM orders FOR UPDATE",
    "WITH x AS (SELECT 1 FROM orders FOR UPDATE OF orders SKIP LOCKED) SELECT * FROM x",
    "WITH x AS (SELECT update_time, inserted FROM orders) SELECT * FROM x",
    "DO RELEASE_LOCK('a')",
    "EXPLAIN SELECT sku FROM orders",
    "VALUES (1)",
    "SET LOCAL search_path TO shop",
]


@pytest.mark.parametrize("statement", WRITING)
def test_what_writes_as_text(shop: Shop, engine: Engine, statement: str) -> None:
    assert fate_of_what_was_rolled_back(shop, engine, statement) == {"discarded": 1}


@pytest.mark.parametrize("statement", READING)
def test_what_reads_as_text(shop: Shop, engine: Engine, statement: str) -> None:
    assert fate_of_what_was_rolled_back(shop, engine, statement) == {"confirmed": 1}


def fate_of_what_was_rolled_back(
    shop: Shop, engine: Engine, statement: str
) -> dict[str, int]:
    shop.events.bind_session(Session)
    with Session(engine) as session:
        # What SQLite does not know fails, which changes nothing about it.
        with contextlib.suppress(DatabaseError):
            session.connection().exec_driver_sql(statement)
        shop.enqueue("b")
        session.rollback()
    shop.events.publish()
    return shop.books()
