"""pika's parameters for a URL: addresses with their zones, and the URL's parameters."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from flask_eventcollector.brokers.rabbitmq.logins import Login
from flask_eventcollector.brokers.rabbitmq.parameters import attempts
from flask_eventcollector.config.broker_url import BrokerURL, parse_broker_urls
from tests.helpers import DEADLINE, open_shop
from tests.isolation.fake_broker import FakeBroker

ROOT = Path(__file__).parents[1]
LOGIN = Login(None, None)


def parse(text: str) -> BrokerURL:
    (url,) = parse_broker_urls(text, "the test's URL")
    return url


@pytest.fixture
def interface() -> str:
    """The name of a network interface."""
    return socket.if_indextoname(1)


def test_a_link_local_address_keeps_its_zone(interface: str) -> None:
    url = parse(f"amqp://[fe80::1%25{interface}]/")

    (parameters,) = attempts(url, 60, "test", LOGIN)

    (found,) = socket.getaddrinfo(parameters.host, 5672, type=socket.SOCK_STREAM)
    assert found[4] == ("fe80::1", 5672, 0, 1)


def test_an_ordinary_address_has_no_zone() -> None:
    urls = [parse("amqp://127.0.0.1"), parse("amqp://[::1]")]
    hosts = [each.host for url in urls for each in attempts(url, 60, "test", LOGIN)]
    assert hosts == ["127.0.0.1", "::1"]


def test_a_zone_is_not_shown_to_the_server(interface: str) -> None:
    # It is a name on this machine: https://www.rfc-editor.org/rfc/rfc6874#section-4
    url = parse(f"amqps://[fe80::1%25{interface}]/")
    (parameters,) = attempts(url, 60, "test", LOGIN)
    options: Any = parameters.ssl_options
    assert options.server_hostname == "fe80::1"


def test_a_url_may_limit_channels_and_frames() -> None:
    url = parse("amqp://127.0.0.1?channel_max=9&frame_max=16384")
    (parameters,) = attempts(url, 60, "test", LOGIN)
    assert (parameters.channel_max, parameters.frame_max) == (9, 16384)


def test_a_urls_own_heartbeat_is_the_connections() -> None:
    with FakeBroker() as node:
        url = f"{node.url}?heartbeat=7"
        with open_shop(BROKER_URL=url, TESTING_BROKER=True, HEARTBEAT=60) as shop:
            shop.enqueue("a")
            assert shop.events.publish(timeout=DEADLINE).complete
        assert node.heartbeats == [7]


def in_own_network(body: str) -> Any:
    """Run *body* with only a loopback interface; returns the JSON that it prints."""
    setup = "ip link set lo up && ip address add fe80::1/64 dev lo nodad"
    command = f"{setup} && exec {sys.executable} -c '{dedent(body)}'"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def has_own_networks() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return (
        subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode
        == 0
    )


@pytest.mark.skipif(not has_own_networks(), reason="no network of its own to be had")
def test_a_broker_at_a_link_local_address_is_reached() -> None:
    result = in_own_network(
        """
        import json
        from tests.helpers import open_shop
        from tests.isolation.fake_broker import FakeBroker

        with FakeBroker(host="fe80::1%lo") as node:
            port = node.port
            url = f"amqp://guest:guest@[fe80::1%25lo]:{port}/"
            with open_shop(BROKER_URL=url, TESTING_BROKER=True) as shop:
                shop.enqueue("a")
                print(json.dumps(shop.events.publish(timeout=20).complete))
        """
    )

    assert result is True
