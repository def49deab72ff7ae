"""Records bytes between a client and the broker, and parses them as AMQP 0-9-1.

It parses without pika, so that it verifies pika's encoding independently.
https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

METHOD, HEADER, BODY = 1, 2, 3
BASIC_PUBLISH, BASIC_GET_OK, BASIC_ACK = (60, 40), (60, 71), (60, 80)
_PROTOCOL = b"AMQP\x00\x00\x09\x01"

#: The properties of the class "basic", in the order of their flags.
PROPERTIES = {
    "content_type": "short string",
    "content_encoding": "short string",
    "headers": "field table",
    "delivery_mode": "octet",
    "priority": "octet",
    "correlation_id": "short string",
    "reply_to": "short string",
    "expiration": "short string",
    "message_id": "short string",
    "timestamp": "timestamp",
    "type": "short string",
    "user_id": "short string",
    "app_id": "short string",
    "cluster_id": "short string",
}


class Relay:
    """Listens on its own port, forwards everything, and records it."""

    def __init__(self, broker_port: int) -> None:
        self._broker = ("127.0.0.1", broker_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        #: Data from clients, one item per connection.
        self.sent: list[bytearray] = []
        #: Data from the broker, one item per connection.
        self.received: list[bytearray] = []
        #: Whether to end the connection instead of forwarding the next confirm.
        self.lose_confirm = False

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _end(self._listener, *self._sockets)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._listener.getsockname()[1]}/"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        broker = socket.create_connection(self._broker)
        self._sockets += [client, broker]
        for source, sink, record in (
            (client, broker, self.sent),
            (broker, client, self.received),
        ):
            record.append(bytearray())
            threading.Thread(
                target=self._carry,
                args=(source, sink, record[-1], record is self.received),
                daemon=True,
            ).start()

    def _carry(
        self,
        source: socket.socket,
        sink: socket.socket,
        record: bytearray,
        from_broker: bool,
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                record += data
                if from_broker and self._loses(record):
                    break
                sink.sendall(data)
        _end(source, sink)

    def _loses(self, record: bytearray) -> bool:
        with self._lock:
            if not self.lose_confirm:
                return False
            last = list(frames(bytes(record)))[-1:]
            loses = any(f.kind == METHOD and f.method == BASIC_ACK for f in last)
            self.lose_confirm = not loses
            return loses


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        # Closing alone does not wake a thread that waits on the socket.
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


class Frame(NamedTuple):
    """One frame, without its envelope."""

    kind: int
    payload: bytes

    @property
    def method(self) -> tuple[int, int]:
        first, second = struct.unpack_from(">HH", self.payload)
        return first, second


class Published(NamedTuple):
    """One message as the publisher sent it, or as a consumer got it."""

    exchange: str
    routing_key: str
    #: Of ``basic.publish``: mandatory is bit 0, immediate is bit 1.
    bits: int
    #: The present properties, with the bytes of their values.
    properties: dict[str, bytes]
    body: bytes

    @property
    def headers(self) -> dict[str, bytes]:
        """Each header's value: a letter for its type, and its bytes."""
        return dict(fields(self.properties["headers"]))


def frames(stream: bytes) -> Iterator[Frame]:
    """The whole frames at the beginning of *stream*."""
    at = len(_PROTOCOL) if stream.startswith(_PROTOCOL) else 0
    while at + 7 <= len(stream):
        kind, _, size = struct.unpack_from(">BHI", stream, at)
        if at + 8 + size > len(stream):
            return
        assert stream[at + 7 + size] == 0xCE, "a frame ends with CE"
        yield Frame(kind, stream[at + 7 : at + 7 + size])
        at += 8 + size


def messages(stream: bytes) -> list[Published]:
    """The messages in *stream*: published by a client, or got with ``basic.get``."""
    found: list[Published] = []
    for frame in frames(stream):
        if frame.kind == METHOD and frame.method == BASIC_PUBLISH:
            found.append(_published(frame.payload[6:]))
        elif frame.kind == METHOD and frame.method == BASIC_GET_OK:
            found.append(_published(frame.payload[13:]))
        elif frame.kind == HEADER:
            found[-1] = found[-1]._replace(properties=_properties(frame.payload))
        elif frame.kind == BODY:
            found[-1] = found[-1]._replace(body=found[-1].body + frame.payload)
    return found


def _published(arguments: bytes) -> Published:
    exchange, at = _short_string(arguments, 0)
    routing_key, at = _short_string(arguments, at)
    return Published(exchange.decode(), routing_key.decode(), arguments[at], {}, b"")


def _properties(payload: bytes) -> dict[str, bytes]:
    (flags,) = struct.unpack_from(">H", payload, 12)
    at, found = 14, {}
    for place, (name, kind) in enumerate(PROPERTIES.items()):
        if flags & (1 << 15 - place):
            size = _size_of(kind, payload, at)
            found[name] = payload[at : at + size]
            at += size
    assert at == len(payload), "nothing is left over"
    return found


def _size_of(kind: str, data: bytes, at: int) -> int:
    if kind == "short string":
        return 1 + data[at]
    if kind == "field table":
        return 4 + int.from_bytes(data[at : at + 4], "big")
    return {"octet": 1, "timestamp": 8}[kind]


def _short_string(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end], end


#: Types of a fixed size; all others begin with their length.
_SIZES = {b"t": 1, b"s": 2, b"I": 4, b"l": 8, b"V": 0}


def fields(table: bytes) -> Iterator[tuple[str, bytes]]:
    """The names of a field table, each with the letter and the bytes of its value."""
    at = 4
    while at < len(table):
        name, at = _short_string(table, at)
        size = _SIZES.get(table[at : at + 1])
        if size is None:
            size = 4 + int.from_bytes(table[at + 1 : at + 5], "big")
        yield name.decode(), table[at : at + 1 + size]
        at += 1 + size
