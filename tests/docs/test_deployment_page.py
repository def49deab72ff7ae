"""The example of the page on deployment works."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.docs.reader import find_one, runs
from tests.helpers import DEADLINE, open_shop
from tests.isolation.fake_broker import FakeBroker

VAULT = find_one(
    page="docs/deployment.md", heading="Credentials that change", language="python"
)


class TokenServer(BaseHTTPRequestHandler):
    """Gives a token to whoever asks."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"access_token": "the-token", "expires_in": 300}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@runs(VAULT)
def test_a_token_is_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), TokenServer) as server, FakeBroker() as node:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/token"
        code = VAULT.code.replace("https://login.example.org/token", url)
        (tmp_path / "the_vault_of_the_page.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        with open_shop(
            BROKER_URL=f"amqp://shop@127.0.0.1:{node.port}/",
            CREDENTIALS="the_vault_of_the_page:broker_login",
            TESTING_BROKER=True,
        ) as shop:
            shop.enqueue("a")
            assert shop.events.publish(timeout=DEADLINE).complete
        server.shutdown()

    assert node.logins == [("shop", "the-token")]
