"""The management API tells what a virtual host has."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flask_eventcollector.config.broker_url import BrokerURL
from flask_eventcollector.verifying.management import (
    ManagementFailed,
    parse_management_url,
)
from flask_eventcollector.verifying.node import find_programs
from tests.helpers import wait_until
from tests.rabbitmq import RabbitMQNode, free_ports

URL = BrokerURL("amqp", "rabbit", 5672, "a/b", "shop", "secret")


class Api(HTTPServer):
    """Answers as told, and notes what it was asked."""

    status = 200
    answer: object = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []
        self.logins: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        api = self.server
        api.paths.append(self.path)
        encoded = self.headers["Authorization"].removeprefix("Basic ")
        api.logins.append(base64.b64decode(encoded).decode())
        body = json.dumps(api.answer).encode()
        self.send_response(api.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_it_tells_how_many_queues_and_the_first_names(api: Api) -> None:
    api.answer = {"total_count": 7, "items": [{"name": "orders"}, {"name": "bills"}]}

    found = parse_management_url(api.url).queues(URL)

    assert found == (7, ["orders", "bills"])
    assert api.paths == ["/api/queues/a%2Fb?page=1&page_size=5&columns=name"]


def test_the_login_is_the_brokers_or_its_own(api: Api) -> None:
    api.answer = {"total_count": 0, "items": []}
    own = api.url.replace("//", "//ops:p%40ss@")

    parse_management_url(api.url).queues(URL)
    parse_management_url(f"{own}/rabbit/").queues(URL)

    assert api.logins == ["shop:secret", "ops:p@ss"]
    assert api.paths[-1].startswith("/rabbit/api/queues/")


def test_a_refusal_is_told_without_the_login(api: Api) -> None:
    api.status = 401
    management = parse_management_url(api.url.replace("//", "//ops:secret@"))

    with pytest.raises(ManagementFailed, match=r"answered 401 Unauthorized") as caught:
        management.queues(URL)
    assert "secret" not in str(caught.value) + repr(management)


@pytest.mark.parametrize("answer", [None, [], {"items": []}, "queues"], ids=repr)
def test_another_answer_is_no_answer(api: Api, answer: object) -> None:
    api.answer = answer
    with pytest.raises(ManagementFailed, match="did not answer with queues"):
        parse_management_url(api.url).queues(URL)


def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    management = parse_management_url(f"http://127.0.0.1:{port}")
    with pytest.raises(ManagementFailed, match=f"127.0.0.1:{port} can't be asked"):
        management.queues(URL)


@pytest.mark.parametrize(
    "text", ["amqp://host:5672", "host:15672", "http://", "http://host:port/", ""]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        parse_management_url(text)


@pytest.mark.slow
@pytest.mark.rabbitmq
@pytest.mark.skipif(find_programs() is None, reason="it starts a node of its own")
def test_rabbitmqs_own_api_tells() -> None:
    (port,) = free_ports(1)
    config = f"management.tcp.port = {port}\nmanagement.tcp.ip = 127.0.0.1\n"
    node = RabbitMQNode(plugins=["rabbitmq_management"], config=config)
    management = parse_management_url(f"http://127.0.0.1:{port}")
    try:
        node.start()
        url = BrokerURL("amqp", "127.0.0.1", node.port)
        assert management.queues(url) == (0, [])
        node.declare("orders")
        wait_until(lambda: management.queues(url) == (1, ["orders"]), "its name")
        with pytest.raises(ManagementFailed, match="answered 404"):
            management.queues(replace(url, vhost="none"))
    finally:
        node.close()
