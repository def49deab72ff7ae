"""The examples of docs/consumers.md, and the page's statements about them.

``tests/consuming`` has a test for each row of its tables.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from pika import BasicProperties
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from flask_eventcollector import received
from tests.docs.modules import imported
from tests.docs.reader import find_one, runs

PAGE = "docs/consumers.md"
BILLING, CONSUMER, PURGING, ASYNC = (
    find_one(page=PAGE, file=name)
    for name in ("billing.py", "consumer.py", "purging.py", "consumer_async.py")
)
PURGE = find_one(page=PAGE, language="sh")
ONCE = find_one(page="flask_eventcollector/extension.py", heading="once")

MESSAGE = BasicProperties(message_id="7")
ORDER = b'{"order_id": 7}'


@contextmanager
def billing(folder: Path, *others: Any) -> Iterator[list[Any]]:
    """The page's app on a database of its own, with other examples."""
    with pytest.MonkeyPatch.context() as patch:
        url = f"sqlite:///{folder / 'billing.sqlite3'}"
        patch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", url)
        with imported(BILLING) as (app,):
            with app.app.app_context():
                app.db.create_all()
            with imported(*others) as modules:
                yield [app, *modules]
            with app.app.app_context():
                app.db.engine.dispose()


def count(app: Any, table: str = "invoice") -> int:
    with app.app.app_context():
        rows = app.db.metadata.tables[table]
        found: int = app.db.session.scalar(select(func.count()).select_from(rows))
    return found


def note_old(app: Any) -> None:
    with app.app.app_context():
        seen = app.db.metadata.tables["eventcollector_seen"]
        row = {"consumer": "a", "message_id": "old", "seen_at": 0}
        app.db.session.execute(insert(seen).values(row))
        app.db.session.commit()


@runs(BILLING, CONSUMER)
def test_a_message_is_handled_once_and_its_copy_is_acknowledged(tmp_path: Path) -> None:
    with billing(tmp_path, CONSUMER) as (app, consumer):
        channel = Mock()
        for tag in (1, 2):
            consumer.on_message(channel, Mock(delivery_tag=tag), MESSAGE, ORDER)

        assert channel.mock_calls == [call.basic_ack(1), call.basic_ack(2)]
        assert count(app) == 1


def test_a_message_whose_work_fails_is_not_acknowledged_and_first_again(
    tmp_path: Path,
) -> None:
    with billing(tmp_path, CONSUMER) as (app, consumer):
        channel, method = Mock(), Mock(delivery_tag=1)
        with pytest.raises(KeyError):
            consumer.on_message(channel, method, MESSAGE, b"{}")
        assert channel.mock_calls == []
        assert count(app, "eventcollector_seen") == 0

        consumer.on_message(channel, method, MESSAGE, ORDER)

        assert channel.mock_calls == [call.basic_ack(1)]
        assert count(app) == 1


@pytest.mark.parametrize(
    ("properties", "body"), [(BasicProperties(), ORDER), (MESSAGE, b"{")]
)
def test_what_can_t_be_read_is_rejected(
    tmp_path: Path, properties: BasicProperties, body: bytes
) -> None:
    with billing(tmp_path, CONSUMER) as (app, consumer):
        channel = Mock()
        consumer.on_message(channel, Mock(delivery_tag=1), properties, body)

        assert channel.mock_calls == [call.basic_reject(1, requeue=False)]
        assert count(app) == 0


def test_the_events_of_the_work_belong_to_its_transaction(tmp_path: Path) -> None:
    with billing(tmp_path) as (app,), app.events.capture() as captured:
        for end in ("rollback", "commit", "commit"):
            with app.app.app_context(), app.events.auto_publish():
                session = app.db.session
                with app.events.once(session, "7", consumer="billing") as first:
                    if first:
                        app.events.enqueue_event({"end": end}, "invoices.requested")
                getattr(session, end)()

        assert [e.payload for e in captured.published] == [{"end": "commit"}]
        assert [e.payload for e in captured.discarded] == [{"end": "rollback"}]


@runs(PURGE)
def test_the_command_forgets_old_messages(tmp_path: Path) -> None:
    flask, option, name, *arguments = shlex.split(PURGE.code)
    assert (flask, option, name) == ("flask", "--app", "billing")
    with billing(tmp_path) as (app,):
        note_old(app)
        result = app.app.test_cli_runner().invoke(args=arguments)

        assert (result.exit_code, result.output) == (0, "Forgot 1 message.\n")
        assert count(app, "eventcollector_seen") == 0


@runs(PURGING)
def test_so_does_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with billing(tmp_path) as (app,):
        note_old(app)
        with imported(PURGING):
            assert capsys.readouterr().out == "1\n"
        assert count(app, "eventcollector_seen") == 0


@runs(ASYNC)
def test_with_asyncio_a_message_is_handled_once(tmp_path: Path) -> None:
    pytest.importorskip("aiosqlite")
    worked: list[object] = []

    async def work(session: AsyncSession) -> None:
        worked.append(session)

    async def main(app: Any, handle: Any) -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/billing.sqlite3")
        for _ in range(2):
            async with AsyncSession(engine) as session:
                await handle(session, "7", work)
        await engine.dispose()

    with billing(tmp_path, ASYNC) as (app, consumer):
        consumer.events = app.events
        asyncio.run(main(app, consumer.handle))
        assert count(app, "eventcollector_seen") == 1

    assert len(worked) == 1


@runs(ONCE)
def test_the_docstring_shows_the_same(tmp_path: Path) -> None:
    booked: list[str] = []
    with billing(tmp_path) as (app,), app.app.app_context():
        channel = Mock()
        for tag in (1, 2):
            names = {
                "events": app.events,
                "db": app.db,
                "message": received(MESSAGE),
                "order": "order",
                "book": booked.append,
                "channel": channel,
                "delivery_tag": tag,
            }
            exec(compile(ONCE.code, str(ONCE), "exec"), names)

    assert booked == ["order"]
    assert channel.mock_calls == [call.basic_ack(1), call.basic_ack(2)]


def test_the_table_of_attributes_has_each() -> None:
    page = (Path(__file__).parents[2] / PAGE).read_text()
    message = received(SimpleNamespace(message_id="7", timestamp=None, headers=None))
    names = {name for name in dir(message) if not name.startswith("_")}

    assert {name for name in names if f"\n| `{name}` |" in page} == names
