"""Translates pika's exceptions into actionable messages."""

from __future__ import annotations

import ast
import re
import socket
import ssl

from pika import exceptions
from pika.adapters.utils.connection_workflow import (
    AMQPConnectorException,
    AMQPConnectorStackTimeout,
)

from ...errors import ConfigurationError
from ...events import Word

#: What pika, the resolver, TLS and the settings raise as a connection is made or used.
CONNECTION_ERRORS = (
    exceptions.AMQPError,
    AMQPConnectorException,
    OSError,
    ConfigurationError,
)
#: While a connection opens, pika wraps the broker's message in a repr.
_REPR = re.compile(r"\w+: \(\d+\) (?P<quote>['\"])(?P<words>.*)(?P=quote)")
#: RabbitMQ cuts off its texts at 255 bytes. If that is in the middle of a character,
#: pika shows them as bytes.
_BYTES = re.compile(r"b(?P<quote>['\"]).*(?P=quote)\Z")
#: CONNECTION_FORCED, NOT_FOUND: the exchange is gone, RESOURCE_ERROR, NOT_ALLOWED: a
#: new token was refused.
_NOBODYS_FAULT = (320, 404, 506, 530)
_NO_PERMISSION = "refused for user"
_TLS_ALERT = re.compile(r"\[SSL: (\w*ALERT\w*)\]")
_LOGIN_ERRORS = (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError)
_TOO_LARGE = re.compile(r"message size \d+ is larger than configured max size (\d+)")


class Stage(Word):
    """What a connection has not come past."""

    #: A file or a callable of the settings.
    SETTINGS = "settings"
    #: The host's name.
    RESOLVE = "resolve"
    #: The network, until the server's first words.
    CONNECT = "connect"
    TLS = "TLS"
    #: The server's certificate has ended, or its authority's.
    EXPIRED = "certificate expired"
    #: It begins later than now.
    NOT_YET_VALID = "certificate not yet valid"
    #: It is for another host.
    HOST_NAME = "certificate's host name"
    #: Nobody whom the client trusts has signed it.
    AUTHORITY = "certificate's authority"
    #: The server does not accept the client's certificate.
    CLIENT_CERTIFICATE = "client's certificate"
    #: The server speaks something else, or not at all.
    PROTOCOL = "protocol"
    LOGIN = "login"
    VHOST = "vhost"


def stage_of(error: BaseException) -> Stage:
    """What a connection has not come past, which ended with *error*."""
    cause = root_cause(error)
    # NOT_ALLOWED: RabbitMQ answers so to an unknown or forbidden virtual host.
    if getattr(cause, "reply_code", None) == 530:
        return Stage.VHOST
    if isinstance(cause, ssl.SSLCertVerificationError):
        code = getattr(cause, "verify_code", 0)
        return _UNVERIFIED.get(code, Stage.AUTHORITY)
    if _TLS_ALERT.search(str(cause)):
        return Stage.CLIENT_CERTIFICATE
    found = (stage for kinds, stage in _STAGES if isinstance(cause, kinds))
    return next(found, Stage.CONNECT)


#: See https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/#error-codes.
_UNVERIFIED = {
    9: Stage.NOT_YET_VALID,
    10: Stage.EXPIRED,
    62: Stage.HOST_NAME,
    64: Stage.HOST_NAME,
}


def explain(error: BaseException) -> str:
    """Why a connection failed or was closed. Never contains a credential."""
    cause = root_cause(error)
    if isinstance(cause, _LOGIN_ERRORS):
        return _refused_login(cause)
    if isinstance(cause, exceptions.IncompatibleProtocolError):
        return _refused_protocol(cause)
    for kind, words in _WORDS:
        if isinstance(cause, kind):
            return words.format(text=_text(cause))
    return f"{type(cause).__name__}: {_text(cause)}"


def is_unexpected(error: BaseException) -> bool:
    """Whether *error* is neither the network's nor the broker's."""
    known = (exceptions.AMQPError, AMQPConnectorException, OSError)
    return not isinstance(root_cause(error), known)


def broker_text(error: BaseException) -> str:
    """The broker's own message, if there is one."""
    return _reply_text(error) or explain(error)


def refused_text(error: BaseException) -> str:
    """The broker's message as it closes a channel over a publish, with the cure.

    https://www.rabbitmq.com/docs/access-control#authorisation
    """
    text = broker_text(error)
    if _NO_PERMISSION in text:
        return f"{text}: grant it the permission 'write' for the exchange"
    return text


def size_limit(error: BaseException) -> int | None:
    """The broker's message size limit in bytes, if *error* states it (code 406)."""
    found = _TOO_LARGE.search(broker_text(error))
    return int(found[1]) if found else None


def accuses_an_event(error: BaseException) -> bool:
    """Whether the broker closed a channel or the connection over what it was sent.

    Not so when somebody closes it on purpose, or the broker stops.
    See https://www.rabbitmq.com/amqp-0-9-1-reference#constants.
    """
    closed = isinstance(
        error, (exceptions.ConnectionClosedByBroker, exceptions.ChannelClosedByBroker)
    )
    return closed and getattr(error, "reply_code", None) not in _NOBODYS_FAULT


def is_missing_exchange(error: BaseException) -> bool:
    """Whether the broker closed the channel because the exchange does not exist."""
    return getattr(error, "reply_code", None) == 404


def root_cause(error: BaseException) -> BaseException:
    """The innermost of pika's nested "workflow failed" exceptions."""
    seen = [error]
    while True:
        inner = getattr(error, "exceptions", None) or [getattr(error, "exception", 0)]
        if not isinstance(inner[-1], BaseException):
            inner = [a for a in error.args if isinstance(a, BaseException)]
        if not inner or inner[-1] in seen:
            return error
        error = inner[-1]
        seen.append(error)


def _refused_login(error: BaseException) -> str:
    """What is wrong with the login, without the error's text, which may show it."""
    is_external = "EXTERNAL" in str(error)
    if isinstance(error, exceptions.AuthenticationError):
        mechanism = "EXTERNAL" if is_external else "PLAIN"
        return f"the broker does not offer the authentication mechanism {mechanism}"
    if is_external:
        return "authentication was refused: no user is named like the certificate"
    return "authentication was refused: wrong user name or password"


def _refused_protocol(error: BaseException) -> str:
    """Why the connection ended before the server said anything."""
    # With TLS 1.3, the server checks the client's certificate after the handshake.
    alert = _TLS_ALERT.search(str(error))
    if alert:
        return f"TLS failed: the server refused the client's certificate ({alert[1]})"
    return "the server does not speak AMQP 0-9-1"


def _reply_text(error: BaseException) -> str:
    text: str = getattr(error, "reply_text", "")
    if _BYTES.match(text):
        return str(ast.literal_eval(text).decode(errors="ignore"))
    return text


def _text(error: BaseException) -> str:
    reply = _reply_text(error)
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    text = str(reply or error) or type(error).__name__
    found = _REPR.fullmatch(text)
    return found["words"] if found else text


_STAGES: list[tuple[tuple[type[BaseException], ...], Stage]] = [
    ((ConfigurationError,), Stage.SETTINGS),
    ((socket.gaierror,), Stage.RESOLVE),
    ((ssl.SSLError,), Stage.TLS),
    (_LOGIN_ERRORS, Stage.LOGIN),
    ((exceptions.ProbableAccessDeniedError,), Stage.VHOST),
    # The server takes connections, and does not answer to AMQP.
    ((AMQPConnectorStackTimeout, exceptions.ConnectionOpenAborted), Stage.PROTOCOL),
    ((exceptions.IncompatibleProtocolError,), Stage.PROTOCOL),
]

_WORDS: list[tuple[type[BaseException], str]] = [
    (ssl.SSLCertVerificationError, "certificate verification failed: {text}"),
    (ssl.SSLError, "TLS failed: {text}"),
    (socket.gaierror, "host name resolution failed: {text}"),
    (
        exceptions.ProbableAccessDeniedError,
        "access to the vhost was refused: {text}",
    ),
    (exceptions.AMQPHeartbeatTimeout, "heartbeat timeout"),
    (exceptions.StreamLostError, "the connection was lost"),
    (exceptions.ConnectionClosedByBroker, "closed by the broker: {text}"),
    (exceptions.ConnectionClosedByClient, "the connection was closed"),
    # It is closed before it is open only if the server does not answer.
    (exceptions.ConnectionOpenAborted, "timed out"),
    (exceptions.AMQPConnectionError, "{text}"),
    (ConfigurationError, "{text}"),
    (TimeoutError, "timed out"),
    (AMQPConnectorStackTimeout, "timed out"),
    (OSError, "{text}"),
]
