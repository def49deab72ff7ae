"""A broker with just enough AMQP to misbehave on demand."""

from __future__ import annotations

import ast
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from pika import frame as frames
from pika import spec
from pika.exceptions import ProtocolVersionMismatch

from flask_eventcollector.messages.amqp_fields import POSSIBLE_DUPLICATE
from tests.helpers import DEADLINE

#: The capabilities that pika requires before it requests confirms.
_PROPERTIES = {"capabilities": {"publisher_confirms": True, "basic.nack": True}}


#: The answers to declarations and bindings.
_DECLARES: dict[str, Callable[[Any], Any]] = {
    "Exchange.Declare": lambda method: spec.Exchange.DeclareOk(),
    "Queue.Declare": lambda method: spec.Queue.DeclareOk(method.queue, 0, 0),
    "Queue.Bind": lambda method: spec.Queue.BindOk(),
}


class Message(NamedTuple):
    """A message that a client has published."""

    connection: int
    channel: int
    #: The number of its channel on this connection, from 1.
    opened: int
    exchange: str
    queue: str
    body: bytes
    mandatory: bool
    properties: spec.BasicProperties

    @property
    def is_marked(self) -> bool:
        """Whether it is marked as a possible duplicate."""
        return bool((self.properties.headers or {}).get(POSSIBLE_DUPLICATE))


# pika decodes what only clients send into an object that it can't make.
spec.methods[spec.Connection.UpdateSecret.INDEX] = partial(  # type: ignore[assignment]
    spec.Connection.UpdateSecret, "", ""
)

#: Decides what to do with a message.
Answer = Callable[[Message], str]


def confirm(_: Message) -> str:
    return "ack"


@dataclass
class _Channel:
    opened: int
    tag: int = 0
    method: spec.Basic.Publish | None = None
    properties: spec.BasicProperties | None = None
    size: int = 0
    body: bytes = b""


@dataclass
class _Connection:
    number: int
    socket: socket.socket
    channels: dict[int, _Channel] = field(default_factory=dict)
    opened: int = 0

    def send(self, channel: int, method: Any) -> None:
        self.socket.sendall(frames.Method(channel, method).marshal())


class FakeBroker:
    """Accepts connections on loopback until the block ends.

    *answer* decides for a message: ``"ack"``, ``"nack"``, ``"return"``, ``"nothing"``,
    ``"close channel"``, ``"close connection"``, ``"drop connection"``, or ``"block"``,
    which is an ack after a temporary alarm.
    """

    def __init__(
        self,
        answer: Answer = confirm,
        *,
        channel_max: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.answer = answer
        self.channel_max = channel_max
        #: Names of methods that get no response, such as ``"Queue.Declare"``.
        self.unanswered: set[str] = set()
        #: What closes the channel or the connection over a declaration or a binding.
        self.on_declare: Callable[[Any], Any] = lambda method: None
        #: Which declarations and bindings get no response until :meth:`answer_late`.
        self.is_late_for: Callable[[Any], bool] = lambda method: False
        self._late: list[Callable[[], None]] = []
        #: The declarations and bindings that it has taken, in order.
        self.declared: list[Any] = []
        self.messages: list[Message] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        #: The passwords with which clients have logged in, and those sent later, each
        #: with its user.
        self.logins: list[tuple[str, str]] = []
        self.secrets: list[str] = []
        #: It ends a connection over these.
        self.refused_secrets: set[str] = set()
        #: The heartbeats that clients have agreed to, in seconds.
        self.heartbeats: list[int] = []
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        self._listener = socket.create_server(address, family=family)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> FakeBroker:
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connected in list(self._open):
            connected.close()
        self._thread.join(DEADLINE)

    def copies(self, body: bytes) -> int:
        """How often a message with *body* was published."""
        return sum(message.body == body for message in self.messages)

    def answer_late(self) -> None:
        """Respond to what is still without a response."""
        while self._late:
            self._late.pop()()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connected)
            connection = _Connection(self.connections, connected)
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: _Connection) -> None:
        try:
            self._talk(connection)
        except (OSError, ProtocolVersionMismatch):
            pass
        finally:
            connection.socket.close()

    def _talk(self, connection: _Connection) -> None:
        received = connection.socket.recv(8)
        connection.send(0, spec.Connection.Start(server_properties=_PROPERTIES))
        received = b""
        while data := connection.socket.recv(1 << 16):
            received += data
            while True:
                used, frame = frames.decode_frame(received)
                if frame is None:
                    break
                received = received[used:]
                if not self._handle(connection, frame):
                    return

    def _handle(self, connection: _Connection, frame: Any) -> bool:
        if isinstance(frame, frames.Method):
            return self._on_method(connection, frame)
        channel = connection.channels.get(frame.channel_number)
        if channel is None or channel.method is None:
            return True
        if isinstance(frame, frames.Header):
            channel.size, channel.body = frame.body_size, b""
            channel.properties = frame.properties
        elif isinstance(frame, frames.Body):
            channel.body += frame.fragment
        if len(channel.body) < channel.size:
            return True
        return self._on_message(connection, frame.channel_number, channel)

    def _on_method(self, connection: _Connection, frame: frames.Method[Any]) -> bool:
        number, method = frame.channel_number, frame.method
        name = method.NAME
        if name in self.unanswered:
            return True
        if name == "Connection.StartOk":
            _, user, password = _text(method.response).split("\0")
            self.logins.append((user, password))
            tune = spec.Connection.Tune(self.channel_max, 131_072, 0)
            connection.send(0, tune)
        elif name == "Connection.TuneOk":
            self.heartbeats.append(method.heartbeat)
        elif name == "Connection.UpdateSecret":
            self._on_secret(connection, method)
        elif name == "Connection.Open":
            connection.send(0, spec.Connection.OpenOk())
        elif name == "Connection.Close":
            connection.send(0, spec.Connection.CloseOk())
            return False
        elif name == "Connection.CloseOk":
            return False
        elif name == "Channel.Open":
            connection.opened += 1
            connection.channels[number] = _Channel(connection.opened)
            connection.send(number, spec.Channel.OpenOk())
        elif name == "Channel.Close":
            connection.channels.pop(number, None)
            connection.send(number, spec.Channel.CloseOk())
        elif name == "Channel.CloseOk":
            connection.channels.pop(number, None)
        elif name == "Confirm.Select":
            connection.send(number, spec.Confirm.SelectOk())
        elif name in _DECLARES:
            self._on_declare(connection, number, method)
        elif name == "Basic.Publish" and number in connection.channels:
            connection.channels[number].method = method
        return True

    def _on_secret(self, connection: _Connection, method: Any) -> None:
        # pika decodes it into another attribute.
        secret = _text(method.mechanisms)
        self.secrets.append(secret)
        if secret in self.refused_secrets:
            close = spec.Connection.Close(530, "NOT_ALLOWED - New secret", 10, 70)
            connection.send(0, close)
        else:
            connection.send(0, spec.Connection.UpdateSecretOk())

    def _on_declare(self, connection: _Connection, number: int, method: Any) -> None:
        if self.is_late_for(method):
            answer = _DECLARES[method.NAME](method)
            self._late.append(partial(connection.send, number, answer))
            return
        close = self.on_declare(method)
        if isinstance(close, spec.Connection.Close):
            connection.send(0, close)
        elif close is not None:
            connection.channels.pop(number)
            connection.send(number, close)
        else:
            if not getattr(method, "passive", False):
                self.declared.append(method)
            connection.send(number, _DECLARES[method.NAME](method))

    def _on_message(
        self, connection: _Connection, number: int, channel: _Channel
    ) -> bool:
        method = channel.method
        properties = channel.properties
        assert method is not None
        assert properties is not None
        channel.method = None
        channel.tag += 1
        message = Message(
            connection.number,
            number,
            channel.opened,
            str(method.exchange),
            str(method.routing_key),
            channel.body,
            bool(method.mandatory),
            properties,
        )
        self.messages.append(message)
        answer = self.answer(message)
        if answer == "ack":
            connection.send(number, spec.Basic.Ack(channel.tag))
        elif answer == "nack":
            connection.send(number, spec.Basic.Nack(channel.tag))
        elif answer == "return":
            if method.mandatory:
                self._return(connection, number, method, channel)
            connection.send(number, spec.Basic.Ack(channel.tag))
        elif answer == "block":
            connection.send(0, spec.Connection.Blocked("an alarm"))
            connection.send(0, spec.Connection.Unblocked())
            connection.send(number, spec.Basic.Ack(channel.tag))
        elif answer == "close channel":
            connection.channels.pop(number)
            connection.send(number, spec.Channel.Close(403, "ACCESS_REFUSED", 60, 40))
        elif answer == "close connection":
            close = spec.Connection.Close(501, "FRAME_ERROR - a marker", 60, 40)
            connection.send(0, close)
            # Messages published after it are read, without effect.
            connection.channels.clear()
        elif answer == "drop connection":
            linger = struct.pack("ii", 1, 0)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        return True

    def _return(
        self,
        connection: _Connection,
        number: int,
        method: spec.Basic.Publish,
        channel: _Channel,
    ) -> None:
        returned = spec.Basic.Return(
            312, "NO_ROUTE", method.exchange, method.routing_key
        )
        assert channel.properties is not None
        connection.send(number, returned)
        for frame in (
            frames.Header(number, channel.size, channel.properties),
            frames.Body(number, channel.body),
        ):
            connection.socket.sendall(frame.marshal())


def _text(long_string: str | bytes) -> str:
    """A long string, which pika decodes to bytes or to their notation."""
    decoded: bytes = ast.literal_eval(str(long_string))
    return decoded.decode()
