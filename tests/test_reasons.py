"""The texts for RabbitMQ's and pika's exceptions, which contain no credential."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import cast

import pika
import pytest
from pika import exceptions
from pika.adapters.utils import connection_workflow as workflow

from flask_eventcollector.brokers.rabbitmq.reasons import (
    Stage,
    broker_text,
    explain,
    is_missing_exchange,
    size_limit,
    stage_of,
)

SECRET = "hunter2"
TOO_LARGE = (
    "PRECONDITION_FAILED - message size 17825792 is larger than configured max size"
    " 16777216"
)


def all_subclasses(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from all_subclasses(subclass)


def connection_errors() -> list[type[BaseException]]:
    base = exceptions.AMQPConnectionError
    pikas = {e for e in all_subclasses(base) if e.__module__.startswith("pika")}
    return sorted({base, *pikas}, key=lambda kind: kind.__name__)


CONNECTION_ERRORS = connection_errors()


def made(kind: type[BaseException]) -> BaseException:
    """An instance as pika creates it."""
    if issubclass(kind, exceptions.ConnectionClosed):
        return kind(320, "CONNECTION_FORCED - broker forced connection closure")
    return kind("some words")


def wrapped(error: BaseException) -> BaseException:
    """*error* as pika raises it when a connection can't be made."""
    phase = workflow.AMQPConnectorAMQPHandshakeError(error)
    return exceptions.AMQPConnectionError(
        workflow.AMQPConnectionWorkflowFailed([OSError("an earlier one"), phase])
    )


@pytest.mark.parametrize("kind", CONNECTION_ERRORS)
def test_each_of_pikas_connection_errors_has_an_explanation(
    kind: type[BaseException],
) -> None:
    words = explain(made(kind))
    assert words
    assert kind.__name__ not in words


@pytest.mark.parametrize("kind", CONNECTION_ERRORS)
def test_an_error_without_an_explanation_is_named(
    kind: type[BaseException],
) -> None:
    if not issubclass(kind, exceptions.ConnectionClosed):
        assert explain(kind())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            socket.gaierror(-2, "Name or service not known"),
            "host name resolution failed",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError("timed out"), "timed out"),
        (ssl.SSLError(1, "wrong version number"), "TLS failed: wrong version number"),
        (OSError(113, "No route to host"), "No route to host"),
        (
            workflow.AMQPConnectorStackTimeout("Timeout during AMQP handshake"),
            "timed out",
        ),
        (
            exceptions.ConnectionOpenAborted(
                "Connection.close() called before connection finished opening:"
                " prev_state=PROTOCOL (320): 'Timeout while setting up AMQP'"
            ),
            "timed out",
        ),
        (
            exceptions.ProbableAuthenticationError("Client was disconnected"),
            "authentication was refused: wrong user name or password",
        ),
        (
            exceptions.ProbableAuthenticationError(
                repr(exceptions.ConnectionClosedByBroker(403, "… mechanism EXTERNAL."))
            ),
            "authentication was refused: no user is named like the certificate",
        ),
        (
            exceptions.IncompatibleProtocolError(
                "StreamLostError: (\"Stream connection lost: SSLError(1, '[SSL:"
                " TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate"
                " required (_ssl.c:2580)')\",)"
            ),
            "TLS failed: the server refused the client's certificate"
            " (TLSV13_ALERT_CERTIFICATE_REQUIRED)",
        ),
        (
            exceptions.AuthenticationError("EXTERNAL"),
            "the broker does not offer the authentication mechanism EXTERNAL",
        ),
        (
            exceptions.AuthenticationError("PLAIN"),
            "the broker does not offer the authentication mechanism PLAIN",
        ),
        (exceptions.ProbableAccessDeniedError("Client was disconnected"), "vhost"),
        (
            exceptions.ProbableAccessDeniedError(
                repr(exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - no vhost"))
            ),
            "access to the vhost was refused: NOT_ALLOWED - no vhost",
        ),
        (exceptions.AMQPHeartbeatTimeout("No activity"), "heartbeat timeout"),
        (
            exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED"),
            "closed by the broker: CONNECTION_FORCED",
        ),
        (
            exceptions.StreamLostError("Stream connection lost: EOF"),
            "the connection was lost",
        ),
    ],
)
def test_the_innermost_cause_is_explained(error: BaseException, words: str) -> None:
    assert words in explain(error)
    assert explain(wrapped(error)) == explain(error)


def test_a_text_that_was_cut_off_in_a_character_is_text() -> None:
    """pika shows it as bytes."""
    text = ("NOT_FOUND - no exchange '" + "ä" * 120).encode()[:252] + b"..."
    error = exceptions.ChannelClosedByBroker(404, cast(str, text))
    shown = "NOT_FOUND - no exchange '" + "ä" * 113 + "..."
    assert broker_text(error) == shown
    closed = exceptions.ConnectionClosedByBroker(404, cast(str, text))
    assert explain(closed) == f"closed by the broker: {shown}"


def test_a_refused_certificate_is_distinguished_from_other_tls_errors() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    assert explain(wrapped(error)).startswith("certificate verification failed")


def test_a_client_whose_certificate_is_refused_has_come_as_far_as_that() -> None:
    alert = "[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired"
    error = exceptions.IncompatibleProtocolError(f"StreamLostError: {alert}")
    assert stage_of(wrapped(error)) is Stage.CLIENT_CERTIFICATE
    assert stage_of(wrapped(exceptions.IncompatibleProtocolError())) is Stage.PROTOCOL


def test_an_unforeseen_error_is_named() -> None:
    assert explain(ZeroDivisionError("by zero")) == "ZeroDivisionError: by zero"


def test_errors_that_wrap_each_other_come_to_an_end() -> None:
    one = workflow.AMQPConnectorAMQPHandshakeError(OSError())
    one.exception = workflow.AMQPConnectorAMQPHandshakeError(one)
    assert explain(one)


def test_a_password_is_in_none_of_the_explanations() -> None:
    credentials = pika.PlainCredentials("user", SECRET)
    parameters = pika.ConnectionParameters("h", credentials=credentials)
    for kind in CONNECTION_ERRORS:
        error = made(kind)
        error.__cause__ = ValueError(parameters, credentials, SECRET)
        assert SECRET not in explain(wrapped(error))
        assert SECRET not in repr(parameters)


@pytest.mark.parametrize(
    "kind", [exceptions.ProbableAuthenticationError, exceptions.AuthenticationError]
)
def test_a_message_about_a_login_is_not_repeated(kind: type[BaseException]) -> None:
    assert SECRET not in explain(wrapped(kind(f"login with {SECRET} was refused")))


# A channel's end


def closed(code: int, text: str) -> exceptions.ChannelClosedByBroker:
    return exceptions.ChannelClosedByBroker(code, text)


def test_the_brokers_own_message_is_used_if_there_is_one() -> None:
    assert broker_text(closed(404, "NOT_FOUND - no exchange")) == (
        "NOT_FOUND - no exchange"
    )


def test_without_a_message_of_the_broker_the_error_is_explained() -> None:
    assert broker_text(exceptions.StreamLostError("EOF")) == "the connection was lost"


def test_the_brokers_size_limit_is_read_from_its_message() -> None:
    assert size_limit(closed(406, TOO_LARGE)) == 16_777_216


@pytest.mark.parametrize("text", ["PRECONDITION_FAILED - inequivalent arg", ""])
def test_other_refusals_have_no_size_limit(text: str) -> None:
    assert size_limit(closed(406, text)) is None


@pytest.mark.parametrize(("code", "missing"), [(404, True), (403, False), (406, False)])
def test_only_404_means_that_the_exchange_is_missing(code: int, missing: bool) -> None:
    assert is_missing_exchange(closed(code, "…")) == missing


def test_a_lost_connection_is_no_missing_exchange() -> None:
    assert not is_missing_exchange(exceptions.StreamLostError("EOF"))
