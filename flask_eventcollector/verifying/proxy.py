"""A TCP proxy between client and broker, which misbehaves on demand."""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")

#: Closes a socket with RST instead of FIN, and discards its unsent data.
_AT_ONCE = struct.pack("ii", 1, 0)
_CHUNK = 65536
#: Shorter pauses are accumulated, since the loop's clock has this resolution.
_LEAST_PAUSE = 0.002


class Side(enum.Enum):
    """The two ends of a connection."""

    CLIENT = "client"
    BROKER = "broker"

    @property
    def other(self) -> Side:
        return Side.BROKER if self is Side.CLIENT else Side.CLIENT


class Proxy:
    """Listens on its own port of this machine, and forwards all data to the broker.

    It runs inside a ``with`` block. The settings apply to all connections, and may be
    changed at any time.
    """

    def __init__(self, broker_port: int, broker_host: str = "127.0.0.1") -> None:
        self.broker_port, self.broker_host = broker_port, broker_host
        #: The delay of each byte in either direction, in seconds.
        self.latency = 0.0
        #: Bytes per second in each direction; ``None``: unlimited.
        self.bandwidth: int | None = None
        #: The most bytes that are forwarded at a time.
        self.slice = _CHUNK
        #: Connections that clients have made, and those that were cut.
        self.accepted = 0
        self.cuts = 0
        #: When each connection was made, by the monotonic clock.
        self.accepted_at: list[float] = []
        #: Bytes forwarded from each side.
        self.passed = dict.fromkeys(Side, 0)
        self._silent: frozenset[Side] = frozenset()
        self._held = False
        self._planned: deque[int] = deque()
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="proxy", daemon=True
        )
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    # Called by its user.

    def restore(self) -> None:
        """Become a plain proxy again; a connection that has lost bytes stays broken."""
        self.latency, self.bandwidth, self.slice = 0.0, None, _CHUNK
        self._silent, self._held = frozenset(), False
        self._planned.clear()

    def silence(self, *sides: Side) -> None:
        """Drop all data from these sides; with both, it is a black hole without RST.

        A connection that has lost data forwards nothing more from that side, even when
        new connections do.
        """
        self._silent = frozenset(sides)

    def hold(self) -> None:
        """Forward nothing until `restore()`; nothing is lost."""
        self._held = True

    def cut(self) -> int:
        """End all connections with RST, at both sides; return how many there were."""
        return self._run(self._cut_all())

    def cut_after(self, counts: Iterable[int]) -> None:
        """Cut all connections after each of these further numbers of bytes."""
        self._planned.extend(counts)

    @property
    def planned_cuts(self) -> int:
        """How many cuts are still planned."""
        return len(self._planned)

    def half_close(self, side: Side) -> int:
        """Send a FIN to *side* of all connections; return how many.

        Data from *side* is still forwarded.
        """
        return self._run(self._half_close(side))

    # The loop's side.

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.accepted += 1
        self.accepted_at.append(time.monotonic())
        client = _End(reader, writer)
        try:
            address = self.broker_host, self.broker_port
            broker = _End(*await asyncio.open_connection(*address))
        except OSError:
            client.reset()
            return
        connection = _Connection({Side.CLIENT: client, Side.BROKER: broker})
        self._connections.add(connection)
        try:
            # asyncio would report the cancellation of this task as an error.
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*(self._carry(connection, side) for side in Side))
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _carry(self, connection: _Connection, side: Side) -> None:
        """Forward data from *side* to the other side until its end."""
        source, sink = connection.ends[side], connection.ends[side.other]
        # Writing after a FIN raises a RuntimeError.
        with suppress(OSError, RuntimeError):
            while data := await source.reader.read(self.slice):
                await self._pause(connection, side, len(data))
                if side in connection.silenced or not (data := self._until_cut(data)):
                    continue
                self.passed[side] += len(data)
                await self._pass_on(sink, data)
                await self._cut_if_due()
        sink.later(self.latency, sink.send_fin)

    async def _pause(self, connection: _Connection, side: Side, size: int) -> None:
        while self._held:
            await asyncio.sleep(_LEAST_PAUSE)
        if side in self._silent:
            connection.silenced.add(side)
        if self.bandwidth is not None:
            await connection.ends[side].paced(size / self.bandwidth)

    async def _pass_on(self, sink: _End, data: bytes) -> None:
        if self.latency or sink.is_late:
            sink.later(self.latency, lambda: sink.send(data))
        else:
            sink.writer.write(data)
            await sink.writer.drain()

    # Cutting.

    def _until_cut(self, data: bytes) -> bytes:
        if not self._planned:
            return data
        data = data[: self._planned[0]]
        self._planned[0] -= len(data)
        return data

    async def _cut_if_due(self) -> None:
        if self._planned and self._planned[0] <= 0:
            self._planned.popleft()
            await self._cut_all()

    async def _cut_all(self) -> int:
        connections = list(self._connections)
        self._connections.clear()
        for connection in connections:
            connection.reset()
        self.cuts += len(connections)
        return len(connections)

    async def _half_close(self, side: Side) -> int:
        connections = list(self._connections)
        for connection in connections:
            connection.ends[side].send_fin()
        return len(connections)


class _End:
    """The proxy's socket to one side."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader, self.writer = reader, writer
        self._free_at = 0.0
        #: Delayed actions, in order.
        self._late: deque[Callable[[], None]] = deque()

    @property
    def is_late(self) -> bool:
        """Whether delayed actions are pending, which come first."""
        return bool(self._late)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do this after a delay, but not before earlier delayed actions."""
        self._late.append(act)
        asyncio.get_running_loop().call_later(seconds, self._catch_up, act)

    def _catch_up(self, act: Callable[[], None]) -> None:
        while act in self._late:
            self._late.popleft()()

    async def paced(self, seconds: float) -> None:
        """Wait until *seconds* have passed for each call so far."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + seconds
        if self._free_at - now > _LEAST_PAUSE:
            await asyncio.sleep(self._free_at - now)

    def send(self, data: bytes) -> None:
        # Nothing can be sent after a FIN.
        with suppress(OSError, RuntimeError):
            self.writer.write(data)

    def send_fin(self) -> None:
        with suppress(OSError, RuntimeError):
            self.writer.write_eof()

    def reset(self) -> None:
        with suppress(OSError):
            own: socket.socket = self.writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.writer.transport.abort()


class _Connection:
    """Both ends of one connection."""

    def __init__(self, ends: dict[Side, _End]) -> None:
        self.ends = ends
        #: Sides from which data was dropped.
        self.silenced: set[Side] = set()

    def reset(self) -> None:
        for end in self.ends.values():
            end.reset()

    def close(self) -> None:
        for end in self.ends.values():
            end.writer.close()
