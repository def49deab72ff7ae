"""The proxy does to bytes what was requested, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from flask_eventcollector.verifying.proxy import Proxy, Side
from tests.helpers import DEADLINE, wait_until


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of an echo server, which answers a FIN with a FIN."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with _connect(proxy) as client:
        assert _ask(client, b"hello") == b"hello"
        yield client


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), DEADLINE)


def _ask(client: socket.socket, question: bytes) -> bytes:
    client.sendall(question)
    return _read(client, len(question))


def _read(client: socket.socket, size: int) -> bytes:
    answer = b""
    while len(answer) < size and (data := client.recv(size - len(answer))):
        answer += data
    return answer


def test_bytes_pass_unchanged(proxy: Proxy, client: socket.socket) -> None:
    question = bytes(range(256)) * 1000

    assert _ask(client, question) == question
    assert proxy.accepted == 1


def test_latency_counts_in_both_directions(proxy: Proxy, client: socket.socket) -> None:
    proxy.latency = 0.05
    began = time.monotonic()

    assert _ask(client, b"slow") == b"slow"

    assert time.monotonic() - began >= 0.1


def test_latency_delays_a_stream_once(proxy: Proxy, client: socket.socket) -> None:
    proxy.latency, proxy.slice = 0.5, 1
    began = time.monotonic()

    assert _ask(client, b"slow, but not each byte") == b"slow, but not each byte"

    assert time.monotonic() - began < 10  # It takes one second, not 24.


def test_what_is_delayed_is_not_overtaken(proxy: Proxy, client: socket.socket) -> None:
    proxy.latency = 0.2
    before = proxy.passed[Side.CLIENT]
    client.sendall(b"first")
    wait_until(lambda: proxy.passed[Side.CLIENT] == before + 5, "it has passed")
    proxy.latency = 0.0

    assert _ask(client, b", then") == b"first,"
    assert _read(client, 5) == b" then"


def test_bandwidth_is_kept_to(proxy: Proxy, client: socket.socket) -> None:
    proxy.bandwidth, proxy.slice = 16_000, 100
    began = time.monotonic()

    assert _ask(client, bytes(4_000)) == bytes(4_000)

    assert 0.2 < time.monotonic() - began < DEADLINE


def test_data_of_a_silenced_side_is_lost_for_good(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.silence(Side.BROKER)
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        _ask(client, b"hello?")

    proxy.restore()

    with pytest.raises(TimeoutError):
        _ask(client, b"hello?")
    with _connect(proxy) as other:
        assert _ask(other, b"hello") == b"hello"


def test_what_was_held_arrives_in_the_end(proxy: Proxy, client: socket.socket) -> None:
    proxy.hold()
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        _ask(client, b"wait")

    proxy.restore()

    client.settimeout(5)
    assert _read(client, 4) == b"wait"


def test_a_cut_resets_the_connection(proxy: Proxy, client: socket.socket) -> None:
    assert proxy.cut() == proxy.cuts == 1

    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_planned_cut_comes_after_so_many_bytes(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.cut_after([3])

    with pytest.raises(ConnectionResetError):
        _read(client, len(_ask(client, b"hello")) or 1)

    assert (proxy.cuts, proxy.planned_cuts) == (1, 0)


def test_a_client_that_gets_a_fin_can_still_send(
    proxy: Proxy, client: socket.socket
) -> None:
    assert proxy.half_close(Side.CLIENT) == 1

    assert client.recv(1) == b""
    before = proxy.passed[Side.CLIENT]
    client.sendall(b"still here")
    wait_until(lambda: proxy.passed[Side.CLIENT] == before + 10, "it has passed")


def test_without_a_broker_behind_it_the_connection_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    # The connection may end before the call that creates it has returned.
    with (
        Proxy(port) as proxy,
        pytest.raises(ConnectionResetError),
        _connect(proxy) as client,
    ):
        client.recv(1)
