"""AMQP on a bare socket: as little as a publisher with confirms can do."""

from __future__ import annotations

import json
import socket
import struct
import time
import uuid
from typing import Any

import pika
from pika import frame, spec

#: 256 bytes as JSON.
PAYLOAD = {"order_id": 7, "note": "x" * 229}

_CHANNEL = 1
_END = bytes([spec.FRAME_END])
#: A frame with `basic.ack`: header, method, delivery tag, multiple, end.
_ACK = struct.Struct(">BHIHHQBB")
_ID = "0" * 36


class Template:
    """Encodes messages for one queue into pika's frames, with their own id and time."""

    def __init__(self, queue: str) -> None:
        publish = spec.Basic.Publish(routing_key=queue, mandatory=True)
        properties = spec.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=_ID,
            timestamp=0,
        )
        header = frame.Header(_CHANNEL, 0, properties).marshal()
        # Frame header, class and weight; the size; flags and properties; id, time, end.
        self._start = _method(publish) + header[:11]
        self._middle = header[19 : -len(_ID) - 9]

    def encode(self, body: bytes) -> bytes:
        return b"".join(
            (
                self._start,
                struct.pack(">Q", len(body)),
                self._middle,
                str(uuid.uuid4()).encode(),
                struct.pack(">Q", int(time.time())),
                _END,
                struct.pack(">BHI", spec.FRAME_BODY, _CHANNEL, len(body)),
                body,
                _END,
            )
        )

    def encode_payload(self, payload: Any = PAYLOAD) -> bytes:
        return self.encode(json.dumps(payload).encode())


class Confirms:
    """Counts the confirms of one channel."""

    def __init__(self) -> None:
        #: All messages up to this delivery tag are confirmed.
        self.up_to = 0
        self._early: set[int] = set()
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was received.

        :raises RuntimeError: there was something else than a confirm.
        """
        data = self._rest + data
        end = len(data) - len(data) % _ACK.size
        for _, _, _, kind, method, tag, multiple, _ in _ACK.iter_unpack(data[:end]):
            if (kind, method) != (60, 80):
                raise RuntimeError(f"the broker sent method {kind}.{method}")
            self._confirm(tag, multiple)
        self._rest = data[end:]

    def _confirm(self, tag: int, multiple: int) -> None:
        if multiple:
            self.up_to = max(self.up_to, tag)
            self._early = {early for early in self._early if early > tag}
        else:
            self._early.add(tag)
        while self.up_to + 1 in self._early:
            self.up_to += 1
            self._early.remove(self.up_to)


class BareConnection:
    """A connection with one channel in confirm mode; without heartbeats."""

    def __init__(self, url: str) -> None:
        parameters = pika.URLParameters(url)
        address = (parameters.host, parameters.port)
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.confirms = Confirms()
        self.sent = 0
        self._buffer = b""
        self._shake_hands()

    def close(self) -> None:
        self.socket.close()

    def write(self, frames: bytes, messages: int) -> None:
        """Write encoded messages; block while the broker does not read."""
        self.socket.sendall(frames)
        self.sent += messages

    def read_confirms(self) -> None:
        """Block until some confirms have arrived."""
        self.confirms.feed(self.receive())

    def receive(self) -> bytes:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the broker closed the connection")
        return data

    @property
    def unconfirmed(self) -> int:
        return self.sent - self.confirms.up_to

    def _shake_hands(self) -> None:
        self.socket.sendall(frame.ProtocolHeader().marshal())
        self._expect(spec.Connection.Start)
        self._call(spec.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US"), 0)
        tune = self._expect(spec.Connection.Tune)
        self._call(spec.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), 0)
        self._call(spec.Connection.Open("/"), 0)
        self._expect(spec.Connection.OpenOk)
        self._call(spec.Channel.Open())
        self._expect(spec.Channel.OpenOk)
        self._call(spec.Confirm.Select())
        self._expect(spec.Confirm.SelectOk)

    def _call(self, method: Any, channel: int = _CHANNEL) -> None:
        self.socket.sendall(_method(method, channel))

    def _expect(self, kind: type[Any]) -> Any:
        while True:
            consumed, found = frame.decode_frame(self._buffer)
            if found is not None:
                break
            self._buffer += self.receive()
        self._buffer = self._buffer[consumed:]
        if not isinstance(found, frame.Method) or not isinstance(found.method, kind):
            raise RuntimeError(f"the broker sent {found}, not {kind.__name__}")
        return found.method


def _method(method: Any, channel: int = _CHANNEL) -> bytes:
    encoded: bytes = frame.Method(channel, method).marshal()
    return encoded
