"""How a relay tells others that it works."""

from __future__ import annotations

import http.client
import socket
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from flask_eventcollector.cli import health
from flask_eventcollector.cli.answering import Address, answering
from flask_eventcollector.cli.exit_codes import Failure
from flask_eventcollector.cli.health import HealthFile, health_answer
from tests.helpers import DEADLINE
from tests.rabbitmq import free_ports


def ask(address: Address, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=DEADLINE)
    connection.request(method, "/any")
    response = connection.getresponse()
    answer = (response.status, response.read().decode())
    connection.close()
    return answer


def here() -> Address:
    return Address("127.0.0.1", free_ports(1)[0])


def telling(address: Address | None, *words: str) -> AbstractContextManager[None]:
    """Answer each request with the next word."""
    left = iter(words)
    return answering(address, lambda: health_answer(next(left)), "--health-port")


def test_it_answers_with_one_word() -> None:
    with telling(address := here(), "active", "", "standby"):
        assert ask(address) == (200, "active\n")
        assert ask(address) == (503, "unhealthy\n")
        assert ask(address, "HEAD") == (200, "")
    with pytest.raises(OSError, match="refused"):
        ask(address)


def test_a_client_that_hangs_up_harms_nobody() -> None:
    with telling(address := here(), "active"):
        with socket.create_connection(address) as client:
            client.send(b"GET")
        assert ask(address) == (200, "active\n")


def test_without_an_address_nothing_is_answered() -> None:
    with telling(None):
        pass


def test_a_port_that_is_taken_is_refused() -> None:
    address = here()
    with (
        telling(address),
        pytest.raises(Failure, match="another --health-port"),
        telling(address),
    ):
        raise AssertionError


def test_a_file_is_written_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(f"{health.__name__}.time.monotonic", lambda: now)
    path = tmp_path / "health"
    file = HealthFile(path)
    for at, word, content in [
        (1000.0, "active", "active\n"),
        (1000.5, "standby", "active\n"),
        (1001.0, "", "active\n"),
        (1001.0, "standby", "standby\n"),
    ]:
        now = at
        file.write(word)
        assert path.read_text() == content
    file.remove()
    assert not path.exists()
    # The folder may be gone, too.
    file.remove()


def test_a_file_that_cannot_be_written_later_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "health"
    file = HealthFile(path)
    path.unlink()
    path.mkdir()
    file.write("active")
