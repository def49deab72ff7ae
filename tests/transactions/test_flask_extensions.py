"""Requests with Flask-SQLAlchemy and Flask-SQLAlchemy-Lite.

Both end the session with the app context, which is after the end of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.helpers import Shop, open_shop
from tests.transactions.support import NOT_COMMITTED, ROLLED_BACK, Base, Order, Work

PUBLISHED = "published"


class Site(NamedTuple):
    """An app, and how its views get their session."""

    shop: Shop
    session: Callable[[], Session]

    @property
    def work(self) -> Work:
        """For a view."""
        return Work(self.shop, self.session())


def with_flask_sqlalchemy(shop: Shop) -> Callable[[], Session]:
    extension = pytest.importorskip("flask_sqlalchemy")
    shop.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = extension.SQLAlchemy(shop)
    shop.events.bind_session(db.session)
    return db.session  # type: ignore[no-any-return]


def with_lite(shop: Shop) -> Callable[[], Session]:
    extension = pytest.importorskip("flask_sqlalchemy_lite")
    shop.config["SQLALCHEMY_ENGINES"] = {"default": "sqlite://"}
    db = extension.SQLAlchemy(shop)
    shop.events.bind_session(lambda: db.session)
    return lambda: db.session


@pytest.fixture(params=[with_flask_sqlalchemy, with_lite], ids=lambda f: f.__name__)
def site(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Site]:
    site = Site(shop, request.param(shop))
    with shop.app_context():
        engine = site.session().get_bind()
        Base.metadata.create_all(engine)
    yield site
    engine.dispose()  # type: ignore[union-attr]


def get(site: Site, view: Callable[[Work], Any]) -> dict[str, str]:
    """Request *view*; returns what became of each event."""
    site.shop.add_url_rule("/", view_func=lambda: view(site.work) or "")
    with site.shop.events.capture() as captured:
        site.shop.test_client().get("/")
        assert site.shop.books().keys() <= {"confirmed", "discarded"}
        return {
            event.payload: event.reason or event.fate.value
            for event in captured.enqueued
        }


def test_a_view_that_commits(site: Site) -> None:
    def view(work: Work) -> None:
        work.place("a")
        work.session.commit()

    assert get(site, view) == {"a": PUBLISHED}


def test_a_view_that_commits_and_fails(site: Site) -> None:
    def view(work: Work) -> tuple[str, int]:
        work.place("a")
        work.session.commit()
        return "", 409

    assert get(site, view) == {"a": "the response was 409"}


def test_a_view_that_rolls_back_and_succeeds(site: Site) -> None:
    def view(work: Work) -> None:
        work.place("a")
        work.session.rollback()

    assert get(site, view) == {"a": ROLLED_BACK}


def test_a_view_that_raises(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def view(work: Work) -> None:
        work.place("a")
        raise LookupError

    assert get(site, view) == {"a": "LookupError was raised"}
    # Its session is removed uncommitted afterwards, which is right.
    assert "not committed" not in caplog.text


def test_a_view_that_forgets_to_commit(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def view(work: Work) -> None:
        work.place("a")
        work.place("b")

    assert get(site, view) == {"a": NOT_COMMITTED, "b": NOT_COMMITTED}
    (record,) = [r for r in caplog.records if "not committed" in r.getMessage()]
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "Discarded 2 events for q: the transaction was not committed. Call commit()"
        " before its session is closed or removed."
    )


def test_a_view_that_forgets_to_commit_and_never_flushes(site: Site) -> None:
    def view(work: Work) -> None:
        work.read()
        work.tell("a")
        work.session.add(Order(sku="a"))

    assert get(site, view) == {"a": NOT_COMMITTED}


def test_a_view_that_commits_then_enqueues_then_reads(site: Site) -> None:
    def view(work: Work) -> str:
        order = work.write("a")
        work.session.commit()
        work.tell("a")
        sku = order.sku
        work.tell("b")
        return sku

    assert get(site, view) == {"a": PUBLISHED, "b": PUBLISHED}


def test_a_view_whose_commit_fails(site: Site) -> None:
    def view(work: Work) -> None:
        work.write("x")
        work.session.commit()
        work.session.expunge_all()
        work.session.add(Order(sku="x"))
        work.tell("a")
        work.session.commit()

    # The session is still in its failed transaction.
    assert get(site, view) == {"a": "IntegrityError was raised"}


def test_a_view_whose_commit_fails_and_that_succeeds(site: Site) -> None:
    def view(work: Work) -> None:
        work.write("x")
        work.session.commit()
        work.session.expunge_all()
        work.session.add(Order(sku="x"))
        work.tell("a")
        with pytest.raises(IntegrityError):
            work.session.commit()

    assert get(site, view) == {"a": ROLLED_BACK}


def test_a_teardown_function_that_commits(site: Site) -> None:
    def view(work: Work) -> None:
        work.place("a")

    @site.shop.teardown_appcontext
    def commit(error: BaseException | None) -> None:
        site.session().commit()

    assert get(site, view) == {"a": PUBLISHED}


def test_a_hook_of_a_commit_in_a_teardown_function(site: Site) -> None:
    """See https://github.com/pallets-eco/flask-sqlalchemy/issues/1271."""
    event = pytest.importorskip("sqlalchemy.event")

    def view(work: Work) -> None:
        work.place("a")
        event.listen(work.session, "after_commit", lambda _: work.tell("b"))

    @site.shop.teardown_appcontext
    def commit(error: BaseException | None) -> None:
        site.session().commit()

    assert get(site, view) == {"a": PUBLISHED, "b": PUBLISHED}


def test_requests_in_one_app_context_share_a_transaction(site: Site) -> None:
    """As in tests that push an app context of their own."""

    def view() -> str:
        site.work.place("a")
        return ""

    site.shop.add_url_rule("/", view_func=view)
    with site.shop.events.capture() as captured, site.shop.app_context():
        site.shop.test_client().get("/")
        assert site.shop.books() == {"collected": 1}
        hint = "or the transaction that it belongs to has not been committed"
        with pytest.raises(AssertionError, match=hint):
            captured.assert_published("q", "a")
        site.session().commit()

        captured.assert_published("q", "a")


@pytest.mark.parametrize("extension", [with_flask_sqlalchemy, with_lite])
def test_a_job_that_publishes_at_the_end_of_its_context(
    extension: Callable[[Shop], Callable[[], Session]],
) -> None:
    with open_shop(AT_CONTEXT_END="publish") as shop:
        site = Site(shop, extension(shop))
        with shop.events.capture() as captured:
            with shop.app_context():
                engine = site.session().get_bind()
                Base.metadata.create_all(engine)
                site.work.place("a")
                site.session().commit()
                site.work.place("b")
            captured.assert_published("q", "a", times=1)
            captured.assert_discarded("q", "b", reason=NOT_COMMITTED)
        engine.dispose()  # type: ignore[union-attr]
