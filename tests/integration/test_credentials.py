"""Passwords, tokens and certificates are exchanged while RabbitMQ and the app run."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU
from cryptography.x509.oid import NameOID

from flask_eventcollector import Credentials, EventCollector
from flask_eventcollector.brokers.rabbitmq import logins
from tests.integration import load
from tests.rabbitmq import RabbitMQNode, free_ports

pytestmark = pytest.mark.rabbitmq

_CONFIG = """
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/server.pem
ssl_options.keyfile = {folder}/server-key.pem
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
ssl_cert_login_from = common_name
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = EXTERNAL
auth_backends.1 = internal
auth_backends.2 = rabbit_auth_backend_oauth2
auth_oauth2.resource_server_id = rabbitmq
auth_oauth2.default_key = test
auth_oauth2.signing_keys.test = {folder}/token-key.pem
auth_oauth2.algorithms.1 = RS256
"""


@dataclass
class Node:
    """A node with TLS, which takes passwords, certificates and tokens."""

    rabbitmq: RabbitMQNode
    tls_port: int
    folder: Path
    authority: trustme.CA
    signing_key: rsa.RSAPrivateKey

    @property
    def external_url(self) -> str:
        return (
            f"amqps://localhost:{self.tls_port}/?auth_mechanism=external"
            f"&cacertfile={self.folder}/ca.pem&certfile={self.folder}/client.pem"
            f"&keyfile={self.folder}/client-key.pem"
        )

    def make_certificate(self, user: str, place: str, passphrase: str = "") -> None:
        """Write the client's certificate for *user*, who is at *place*, and its key."""
        key = rsa.generate_private_key(65537, 2048)
        made = _issue(self.authority, key, user, place)
        (self.folder / "client.pem").write_bytes(made.public_bytes(Encoding.PEM))
        kind = BestAvailableEncryption(passphrase.encode()) if passphrase else None
        (self.folder / "client-key.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, kind or NoEncryption())
        )

    def make_token(self, seconds: float) -> str:
        """A token for all resources, which expires after so many *seconds*."""
        claims = {
            "aud": "rabbitmq",
            "sub": "shop",
            "exp": int(time.time() + seconds),
            "scope": "rabbitmq.configure:*/* rabbitmq.write:*/* rabbitmq.read:*/*",
        }
        head = {"alg": "RS256", "typ": "JWT", "kid": "test"}
        signed = f"{_encoded(head)}.{_encoded(claims)}"
        signature = self.signing_key.sign(
            signed.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        return f"{signed}.{_base64(signature)}"

    def connections(self, about: str) -> str:
        """What the node says *about* the connections that it has."""
        return self.rabbitmq.eval(
            f"[rabbit_networking:connection_info(Pid, [{about}])"
            " || Pid <- rabbit_networking:connections()]."
        )


def _issue(
    authority: trustme.CA, key: rsa.RSAPrivateKey, user: str, place: str
) -> x509.Certificate:
    """A certificate that Erlang accepts for a client; it refuses those of trustme."""
    signer = load_pem_private_key(authority.private_key_pem.bytes(), None)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, user),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, place),
    ]
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([EKU.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _encoded(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("broker")
    authority, signing_key = trustme.CA(), rsa.generate_private_key(65537, 2048)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = authority.issue_cert("localhost")
    server.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    server.private_key_pem.write_to_path(str(folder / "server-key.pem"))
    (folder / "token-key.pem").write_bytes(
        signing_key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
    )
    (port,) = free_ports(1)
    plugins = ("rabbitmq_auth_mechanism_ssl", "rabbitmq_auth_backend_oauth2")
    config = _CONFIG.format(port=port, folder=folder)
    rabbitmq = RabbitMQNode(plugins=plugins, config=config)
    try:
        rabbitmq.start()
        yield Node(rabbitmq, port, folder, authority, signing_key)
    finally:
        rabbitmq.close()


@contextmanager
def collecting(url: str, **settings: Any) -> Iterator[EventCollector]:
    app, events = load.make_app(url, load.fresh_queue(), **settings)
    with app.app_context():
        try:
            yield events
        finally:
            events.close(0)


def deliver(events: EventCollector, queue: str) -> None:
    """Deliver an event to a new queue, so that the broker checks the permission."""
    events.enqueue_event(1, queue)
    events.publish()
    load.wait_for(lambda: events.flush(5))


def add_user(node: Node, user: str, password: str) -> None:
    node.rabbitmq.add_user(user, password)
    node.rabbitmq.set_permissions(user, ".*", ".*", ".*")


@pytest.fixture
def queue(node: Node) -> str:
    return node.rabbitmq.declare(load.fresh_queue())


@pytest.mark.parametrize("kind", ["PASSWORD_FILE", "CREDENTIALS"])
def test_a_password_that_is_changed_is_found_by_itself(
    node: Node, queue: str, kind: str, tmp_path: Path
) -> None:
    user, file = load.fresh_queue(), tmp_path / "password"
    file.write_text("first\n")
    add_user(node, user, "first")
    url = f"amqp://{user}@127.0.0.1:{node.rabbitmq.port}/"
    settings = {
        "PASSWORD_FILE": file,
        "CREDENTIALS": lambda: Credentials(password=file.read_text().strip()),
    }
    with collecting(url, **{kind: settings[kind]}) as events:
        deliver(events, queue)

        node.rabbitmq.change_password(user, "second")
        node.rabbitmq.close_all_connections()
        load.wait_for(lambda: "wrong user name or" in events.stats().broker_error)
        events.enqueue_event(2, queue)
        assert events.publish().retained == 1
        file.write_text("second\n")
        deliver(events, queue)

    assert node.rabbitmq.count(queue) == 3


def test_a_certificate_is_enough_and_is_read_at_each_connect(
    node: Node, queue: str
) -> None:
    user = load.fresh_queue()
    add_user(node, user, "unknown")
    node.make_certificate(user, "old place")
    with collecting(node.external_url) as events:
        deliver(events, queue)
        about = node.connections("auth_mechanism, user, peer_cert_subject")
        assert '<<"EXTERNAL">>' in about
        assert user in about
        assert "old place" in about

        node.make_certificate(user, "new place")
        node.rabbitmq.close_all_connections()
        deliver(events, queue)
        assert "new place" in node.connections("peer_cert_subject")


def test_a_passphrase_is_requested_at_each_connect(node: Node, queue: str) -> None:
    user, passphrase = load.fresh_queue(), "old passphrase"
    add_user(node, user, "unknown")
    node.make_certificate(user, "old place", passphrase)
    with collecting(node.external_url, KEYFILE_PASSWORD=lambda: passphrase) as events:
        deliver(events, queue)

        passphrase = "new passphrase"
        node.make_certificate(user, "new place", passphrase)
        node.rabbitmq.close_all_connections()
        deliver(events, queue)
        assert "new place" in node.connections("peer_cert_subject")


def test_a_certificate_of_nobody_is_refused(node: Node, queue: str) -> None:
    node.make_certificate("nobody", "a place")
    with collecting(node.external_url) as events:
        events.enqueue_event(1, queue)
        assert events.publish().confirmed == 0
        load.wait_for(lambda: "named like the cert" in events.stats().broker_error)


def tokens(node: Node, *first: str, seconds: float) -> Callable[[], Credentials]:
    """Returns the *first* tokens, then valid ones."""
    given = iter(first)

    def token() -> Credentials:
        made = next(given, None) or node.make_token(seconds)
        return Credentials(password=made, expires_in=seconds)

    return token


@pytest.fixture
def _renewed_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "_RENEWED_AFTER", (0.2, 0.2))


@pytest.mark.slow
@pytest.mark.usefixtures("_renewed_early")
def test_a_token_is_renewed_before_it_expires(node: Node) -> None:
    queues = [node.rabbitmq.declare(load.fresh_queue()) for _ in range(8)]
    url = f"amqp://shop@127.0.0.1:{node.rabbitmq.port}/"
    began = time.monotonic()
    with collecting(url, CREDENTIALS=tokens(node, seconds=5)) as events:
        for number, queue in enumerate(queues):
            load.wait_for(lambda due=number: time.monotonic() > began + due)  # type: ignore[misc]
            deliver(events, queue)
        connection = events.broker.relay.connection

    assert connection is not None
    assert connection.number == 1
    assert [node.rabbitmq.count(queue) for queue in queues] == [1] * 8


def test_a_token_that_is_refused_brings_a_new_connection(
    node: Node,
    queue: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logins, "_RENEWED_AFTER", (0.02, 0.02))
    first = [node.make_token(60), "no token"]
    url = f"amqp://shop@127.0.0.1:{node.rabbitmq.port}/"
    with collecting(url, CREDENTIALS=tokens(node, *first, seconds=60)) as events:
        deliver(events, queue)
        relay = events.broker.relay
        load.wait_for(
            lambda: relay.connection is not None and relay.connection.number >= 2
        )
        deliver(events, queue)
        assert events.stats().dead == 0
    assert "NOT_ALLOWED - New secret was refused" in caplog.text
