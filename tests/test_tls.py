"""TLS files are read when the app is created, and no passphrase is requested."""

from __future__ import annotations

import os
import pty
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from flask_eventcollector import BrokerState, Config
from flask_eventcollector.config.tls import Passphrase
from tests.faults.tls import TLSProxy
from tests.helpers import DEADLINE, open_shop, wait_until
from tests.isolation.fake_broker import FakeBroker
from tests.test_config import app_with, config_with, refusal

ROOT = Path(__file__).parents[1]
PASSPHRASE = "the-planted-passphrase"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with a client's certificate, its key, and the key encrypted."""
    client = authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    key = load_pem_private_key(client.private_key_pem.bytes(), None)
    for name, kind in (
        ("encrypted.pem", PrivateFormat.PKCS8),
        ("old-style.pem", PrivateFormat.TraditionalOpenSSL),
    ):
        encryption = BestAvailableEncryption(PASSPHRASE.encode())
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, kind, encryption))
    return tmp_path


def url_with(files: Path, key: str, port: int = 5671) -> str:
    return (
        f"amqps://user:the-planted-password@localhost:{port}/?cacertfile={files}/ca.pem"
        f"&certfile={files}/client.pem&keyfile={files}/{key}"
    )


@pytest.mark.parametrize("key", ["encrypted.pem", "old-style.pem"])
def test_an_encrypted_key_needs_its_passphrase_when_the_app_is_made(
    files: Path, key: str
) -> None:
    message = refusal(BROKER_URL=url_with(files, key))
    assert message.startswith("EVENTCOLLECTOR_BROKER_URL (amqps://user:***@localhost:")
    assert "has an encrypted keyfile: set EVENTCOLLECTOR_KEYFILE_PASSWORD" in message
    assert "or decrypt it with openssl pkey" in message
    assert "the-planted" not in message


def test_no_passphrase_is_requested_at_the_terminal(files: Path) -> None:
    script = """
from flask import Flask
from flask_eventcollector import EventCollector
import sys
app = Flask("test")
app.config["EVENTCOLLECTOR_BROKER_URL"] = sys.argv[1]
EventCollector(app)
"""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", script, url_with(files, "encrypted.pem")],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
        timeout=3 * DEADLINE,
        text=True,
    )
    os.close(theirs)
    os.close(ours)
    assert "ConfigurationError: EVENTCOLLECTOR_BROKER_URL" in done.stderr
    assert "pass phrase" not in done.stderr


def test_a_wrong_passphrase_is_refused(files: Path) -> None:
    message = refusal(
        BROKER_URL=url_with(files, "encrypted.pem"), KEYFILE_PASSWORD="the-planted-no"
    )
    assert "a keyfile that EVENTCOLLECTOR_KEYFILE_PASSWORD does not decrypt" in message
    assert "the-planted" not in message


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("ca.pem", "nothing", "has a cacertfile without a certificate in PEM"),
        ("client.pem", "nothing", "has a certfile and a keyfile ("),
        ("key.pem", "nothing", "that can't be used: write PEM files that belong"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    files: Path, name: str, text: str, problem: str
) -> None:
    (files / name).write_text(text)
    assert problem in refusal(BROKER_URL=url_with(files, "key.pem"))


def test_a_key_of_another_certificate_is_refused(
    files: Path, authority: trustme.CA
) -> None:
    other = authority.issue_cert("other@example.org")
    other.private_key_pem.write_to_path(str(files / "key.pem"))
    message = refusal(BROKER_URL=url_with(files, "key.pem"))
    assert "write PEM files that belong together" in message


def test_a_file_without_read_permission_is_refused(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name, part in (
        ("load_cert_chain", "a certfile or keyfile that can't be read: Permission"),
        ("load_verify_locations", "a cacertfile that can't be read: Permission"),
    ):
        monkeypatch.setattr(ssl.SSLContext, name, forbidden)
        assert part in refusal(BROKER_URL=url_with(files, "key.pem"))


@pytest.mark.parametrize("password", ["", "a\n", "ü" * 513, "\ud800"])
def test_what_is_no_passphrase_is_refused_and_not_shown(password: str) -> None:
    message = refusal(KEYFILE_PASSWORD=password)
    assert "is empty, longer than 1024 bytes, or has a line break" in message
    assert not password or password not in message


def test_a_passphrase_of_digits_needs_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(KEYFILE_PASSWORD=123456)
    assert "is of type int: it must be a str (in an environment variable" in message
    assert "123456" not in message


def test_a_passphrase_is_not_shown() -> None:
    app = app_with(KEYFILE_PASSWORD=PASSPHRASE)
    assert Config.from_app(app).keyfile_password == PASSPHRASE
    assert PASSPHRASE not in repr(Config.from_app(app))


@pytest.mark.parametrize("password", [PASSPHRASE, lambda: PASSPHRASE])
def test_a_client_with_an_encrypted_key_is_let_in(
    files: Path, authority: trustme.CA, password: Passphrase
) -> None:
    with tls_node(files, authority) as proxy:
        url = url_with(files, "encrypted.pem", proxy.port)
        with open_shop(
            BROKER_URL=url, KEYFILE_PASSWORD=password, TESTING_BROKER=True
        ) as shop:
            shop.enqueue("a")
            assert shop.events.publish(timeout=DEADLINE).complete


@contextmanager
def tls_node(files: Path, authority: trustme.CA) -> Iterator[TLSProxy]:
    """A broker that lets in whoever has a certificate of *authority*."""
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=files / "ca.pem"
    )
    context.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("localhost").configure_cert(context)
    with FakeBroker() as node, TLSProxy(node.port, context) as proxy:
        yield proxy


def test_a_callable_is_not_called_before_it_is_needed(files: Path) -> None:
    def passphrase() -> str:
        raise AssertionError("it was called")

    config_with(
        BROKER_URL=url_with(files, "encrypted.pem"), KEYFILE_PASSWORD=passphrase
    )


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("the-planted-no", "that EVENTCOLLECTOR_KEYFILE_PASSWORD does not decrypt"),
        (7, "what EVENTCOLLECTOR_KEYFILE_PASSWORD returned is of type int"),
        ("a\n", "what EVENTCOLLECTOR_KEYFILE_PASSWORD returned is empty, longer than"),
    ],
)
def test_a_callable_that_returns_something_wrong_is_called_again(
    files: Path, authority: trustme.CA, wrong: Any, problem: str
) -> None:
    passphrase = wrong
    with tls_node(files, authority) as proxy:
        url = url_with(files, "encrypted.pem", proxy.port)
        with open_shop(
            BROKER_URL=url, KEYFILE_PASSWORD=lambda: passphrase, TESTING_BROKER=True
        ) as shop:
            shop.enqueue("a")
            shop.events.publish()
            stats = shop.events.stats
            wait_until(lambda: problem in stats().broker_error, "it is reported")
            assert "the-planted" not in stats().broker_error

            passphrase = PASSPHRASE
            assert shop.events.flush(DEADLINE)


def test_a_key_that_is_encrypted_later_is_reported_without_a_prompt(
    files: Path,
) -> None:
    url = url_with(files, "key.pem", port=1)
    with open_shop(BROKER_URL=url, TESTING_BROKER=True) as shop:
        (files / "encrypted.pem").rename(files / "key.pem")
        shop.enqueue("a")
        shop.events.publish()
        stats = shop.events.stats
        wait_until(lambda: stats().broker is BrokerState.DOWN, "it is down")
        assert "has an encrypted keyfile: set" in stats().broker_error
