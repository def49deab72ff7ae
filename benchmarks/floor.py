"""What Python can do at best: no ledger, no retry, no reconnect."""

from __future__ import annotations

import os
import select
import threading
from collections import deque

from .frames import BareConnection

#: The most unconfirmed messages.
WINDOW = 4000


class Floor:
    """One I/O thread writes what others have encoded, and counts confirms."""

    def __init__(self, url: str) -> None:
        self._connection = BareConnection(url)
        self._connection.socket.setblocking(False)
        self._handed_over: deque[tuple[bytes, int, threading.Event]] = deque()
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        self._unsent = b""
        self._awake = False
        self._stopped = False
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def hand_over(self, frames: bytes, messages: int) -> threading.Event:
        """Return what is set when all of them are confirmed."""
        confirmed = threading.Event()
        self._handed_over.append((frames, messages, confirmed))
        self._wake()
        return confirmed

    def close(self) -> None:
        self._stopped = True
        os.write(self._wake_write, b"x")
        self._thread.join()
        self._connection.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        broker = self._connection.socket
        while not self._stopped:
            writing = [broker.fileno()] if self._unsent else []
            reading = [broker.fileno(), self._wake_read]
            readable, _, _ = select.select(reading, writing, [])
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
                self._awake = False
            if broker.fileno() in readable:
                self._connection.read_confirms()
            self._take()
            self._send()
            self._settle()

    def _settle(self) -> None:
        confirmed = self._connection.confirms.up_to
        while self._waiting and self._waiting[0][0] <= confirmed:
            self._waiting.popleft()[1].set()

    def _take(self) -> None:
        batches = []
        while self._handed_over and self._connection.unconfirmed < WINDOW:
            frames, messages, confirmed = self._handed_over.popleft()
            batches.append(frames)
            self._connection.sent += messages
            self._waiting.append((self._connection.sent, confirmed))
        self._unsent += b"".join(batches)

    def _send(self) -> None:
        if self._unsent:
            try:
                sent = self._connection.socket.send(self._unsent)
            except BlockingIOError:
                return
            self._unsent = self._unsent[sent:]


class SharedSocket:
    """Whoever publishes writes, under a lock; one thread counts confirms."""

    def __init__(self, url: str) -> None:
        self._connection = BareConnection(url)
        self._turn = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        threading.Thread(target=self._count, daemon=True).start()

    def publish(self, frames: bytes, messages: int) -> threading.Event:
        """Return what is set when all of them are confirmed."""
        confirmed = threading.Event()
        with self._turn:
            self._waiting.append((self._connection.sent + messages, confirmed))
            self._connection.write(frames, messages)
        return confirmed

    def _count(self) -> None:
        while True:
            self._connection.read_confirms()
            up_to = self._connection.confirms.up_to
            while self._waiting and self._waiting[0][0] <= up_to:
                self._waiting.popleft()[1].set()
