"""The examples of docs/dashboard.md."""

from __future__ import annotations

import pytest

from tests.docs.modules import imported
from tests.docs.reader import find_one, runs

PAGE = "docs/dashboard.md"
TRY_IT, SHOP = (find_one(page=PAGE, file=name) for name in ("try_it.py", "shop.py"))


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_TESTING", "true")
    monkeypatch.setenv("FLASK_SECRET_KEY", '"key"')


@runs(TRY_IT)
def test_in_debug_mode_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_debug, status in (("1", 200), ("0", 404)):
        monkeypatch.setenv("FLASK_DEBUG", is_debug)
        with imported(TRY_IT) as (module,):
            client = module.app.test_client()
            assert client.get("/eventcollector/").status_code == status


@runs(SHOP)
@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        (None, 302, "/login"),
        ("ann", 200, "Seen by ann"),
        ("bob", 200, "Read-only"),
        ("eve", 403, "You may not see this page."),
    ],
)
def test_the_users_see_what_they_may(name: str | None, status: int, text: str) -> None:
    with imported(SHOP) as (module,):
        client = module.app.test_client()
        with client.session_transaction() as session:
            if name is not None:
                session["user"] = name
        page = client.get("/admin/events/")
    assert (page.status_code, text in page.text) == (status, True)
    assert ("Read-only" in page.text) == (name == "bob")
