"""pika's connection, with features that its public interface lacks."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import pika
from pika import spec
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter


class Ack(NamedTuple):
    """One ``basic.ack`` from the broker."""

    channel_number: int
    tag: int
    #: Whether it confirms all earlier tags, too.
    multiple: bool


#: A frame with a ``basic.ack``: type, channel, size, method, tag, multiple, end.
_ACK = struct.Struct(">BHIIQBB")
_ACK_SIZE = _ACK.size - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE


class IOServices(SelectorIOServicesAdapter):
    """pika's I/O services, for hosts that are addresses.

    pika starts a thread for each lookup, even of an address. The machine may have no
    more threads, and Python starts none while it shuts down.
    """

    #: The socket of the connection, or of the last attempt to connect.
    sock: socket.socket | None = None

    def __init__(self, loop: IOLoop) -> None:
        super().__init__(cast(Any, loop))

    def close_socket(self) -> None:
        """Close the socket, which pika leaves open if its loop fails."""
        if self.sock is not None:
            self.sock.close()

    def connect_socket(
        self,
        sock: socket.socket,
        resolved_addr: Any,
        on_done: Callable[[BaseException | None], None],
    ) -> Any:
        """Connect *sock*, then pass the error or ``None`` to *on_done*."""
        self.sock = sock
        return super().connect_socket(sock, resolved_addr, on_done)

    def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        on_done: Callable[..., None],
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Pass the socket addresses of *host* to *on_done*, in the I/O loop."""
        flags |= socket.AI_NUMERICHOST
        found = socket.getaddrinfo(host, port, family, socktype, proto, flags)
        return self.call_later(0, lambda: on_done(found))


class Connection(pika.SelectConnection):
    """Writes encoded messages, and reads confirms directly from the bytes.

    pika creates several objects for each frame, and looks up callbacks in several
    places. That would be most of the cost of publishing.
    """

    #: Called with the confirms that have arrived, in order.
    on_acks: Callable[[list[Ack]], None] | None = None
    #: What a callback raised. pika then ends the connection without reporting it.
    failure: Exception | None = None
    #: Whether a server has accepted it, with TLS if that is spoken.
    was_accepted = False
    _corked: list[bytes] | None = None
    _is_ending = False

    # pika's attributes; its heartbeats use the counts.
    bytes_received: int
    bytes_sent: int
    frames_received: int
    _frame_buffer: bytes
    _nbio: IOServices
    _transport: Any

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Write everything that the block sends in one system call.

        Each system call releases the GIL to the app's threads.
        """
        corked: list[bytes] = []
        self._corked = corked
        try:
            yield
        finally:
            self._corked = None
            if corked:
                self._adapter_emit_data(b"".join(corked))

    def send_frames(self, data: bytes) -> None:
        """Send encoded frames."""
        self.bytes_sent += len(data)
        self._adapter_emit_data(data)

    def end(self, error: Exception) -> None:
        """End the connection without the closing handshake, which may time out."""
        self._terminate_stream(error)

    # Called by pika.

    def _on_stream_connected(self) -> None:
        self.was_accepted = True
        super()._on_stream_connected()  # type: ignore[misc]

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._corked is not None:
            self._corked.append(data)
            return
        rest = self._send_now(data)
        if rest:
            super()._adapter_emit_data(rest)  # type: ignore[misc]

    def _send_now(self, data: bytes) -> bytes:
        """Send as much of *data* as the socket takes; returns the rest.

        pika always asks the poller first whether the socket is writable, which takes
        two system calls and a turn of the loop.
        """
        transport, sock = self._transport, self._nbio.sock
        if transport is None or sock is None or self.params.ssl_options is not None:
            return data
        if self._is_ending or transport.get_write_buffer_size():
            return data
        try:
            return data[sock.send(data) :]
        except OSError:
            # Would block, or is broken: pika will find out.
            return data

    def _on_data_available(self, data_in: bytes) -> None:
        try:
            self._handle_data(data_in)
        except Exception as error:
            self.failure = error
            raise

    def _handle_data(self, data: bytes) -> None:
        if self.on_acks is not None:
            data = self._take_acks(self._frame_buffer + data, self.on_acks)
            self._frame_buffer = b""
        if data:
            super()._on_data_available(data)  # type: ignore[misc]

    def _take_acks(self, data: bytes, on_acks: Callable[[list[Ack]], None]) -> bytes:
        """Take the confirms at the beginning of *data*; returns the rest."""
        acks = []
        start, end = 0, len(data) - _ACK.size
        while start <= end:
            kind, channel, size, method, tag, multiple, last = _ACK.unpack_from(
                data, start
            )
            if method != spec.Basic.Ack.INDEX or kind != spec.FRAME_METHOD:
                break
            if size != _ACK_SIZE or last != spec.FRAME_END:
                break
            acks.append(Ack(channel, tag, bool(multiple)))
            start += _ACK.size
        if acks:
            self.bytes_received += start
            self.frames_received += len(acks)
            on_acks(acks)
        return data[start:]

    def _terminate_stream(self, error: Exception | None) -> None:
        # A close while the connection is opening will end the stream. An abort in
        # between would end it a second time, and pika would call callbacks that it has
        # cleared.
        if self._is_ending:
            return
        self._is_ending = True
        try:
            super()._terminate_stream(error)  # type: ignore[misc]
        except BaseException:
            # Nothing would end it any more if the next attempt were skipped.
            self._is_ending = False
            raise
