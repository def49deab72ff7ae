"""A shop with a dashboard, and what a browser sends to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

from werkzeug.test import TestResponse

from flask_eventcollector import Event, Outcome
from flask_eventcollector.dashboard import Viewer
from tests.helpers import Shop, open_shop

ANN = Viewer("ann")
#: What a browser sends with a form on the page itself.
SAME_ORIGIN = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
#: Broker's answers that leave an event waiting for an hour.
_NEVER = {"RETRY_DELAY": 3600, "RETRY_MAX_DELAY": 3600}


class Desk:
    """A browser on a shop's dashboard, which allows all to a user named ann."""

    def __init__(self, shop: Shop, **options: Any) -> None:
        shop.secret_key = "key"
        chosen: dict[str, Any] = {"authorize": lambda: ANN, "allow_actions": True}
        shop.register_blueprint(shop.events.dashboard(**chosen | options))
        self.shop = shop
        self.browser = shop.test_client()
        self._token = ""

    def get(self, path: str = "", **query: Any) -> TestResponse:
        """A page."""
        path = f"/eventcollector/{path}"
        return self.browser.get(path, query_string=query or None)

    def page(self, path: str = "", **query: Any) -> str:
        """The text of a page, which must be there."""
        response = self.get(path, **query)
        assert response.status_code == 200, response.text
        return response.text

    def shown(self, path: str = "", **query: Any) -> str:
        """What a person reads there."""
        return readable(self.page(path, **query))

    def ids(self, **query: Any) -> list[str]:
        """The ids on the page with the list of events."""
        return re.findall(r'name="id" value="([^"]*)"', self.page("events", **query))

    def token(self) -> str:
        """The token of a form, which may have been shown before."""
        found = re.search(r'name="token" value="([^"]+)"', self.page("events"))
        if found is not None:
            self._token = found[1]
        return self._token

    def post(self, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        """Send a form with these fields, as a browser does from the page itself."""
        data = fields if "token" in fields else {"token": self.token(), **fields}
        return self.browser.post(
            "/eventcollector/change",
            data=data,
            headers=SAME_ORIGIN if headers is None else headers,
        )

    def done(self, **fields: Any) -> str:
        """Send a form that does something; returns its answer."""
        response = self.post(**fields)
        assert response.status_code == 200, response.text
        return readable(response.text)

    def die(self, payload: Any = 1, queue: str = "q", **more: Any) -> Event:
        """A dead event."""
        self.shop.faults.refuse(queue, Outcome.NACKED)
        return self.leave(payload, queue, **more)

    def leave(self, payload: Any = 1, queue: str = "q", **more: Any) -> Event:
        """An event that is handed over."""
        with self.shop.app_context():
            event = self.shop.events.enqueue_event(payload, queue, **more)
            self.shop.events.publish(0)
        return event


def readable(text: str) -> str:
    """What a person reads on a page."""
    body = text[text.find("<body>") :]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


@contextmanager
def open_desk(
    options: dict[str, Any] | None = None, *, waits: bool = False, **settings: Any
) -> Iterator[Desk]:
    """Open a desk whose broker's refusals are final, or, if it *waits*, are not."""
    settings = (_NEVER if waits else {"DEAD_AFTER": 0}) | settings
    with open_shop(**settings) as shop:
        yield Desk(shop, **(options or {}))
