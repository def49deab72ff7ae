"""Tells others that a relay works: by the time of a file, or over HTTP."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import NamedTuple

from ..delivery.threads import OwnThread
from .exit_codes import Failure

_WRITE_EVERY = 1.0
#: Seconds that one client may take.
_TIMEOUT = 5.0

#: Returns one word about a process that works; ``""``: it doesn't.
Look = Callable[[], str]


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


class HealthFile:
    """A file that is written as long as the process works.

    :raises Failure: it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0
        try:
            path.touch()
        except OSError as error:
            raise Failure(
                f"Can't write the health file {path}: {error.strerror}. Choose a file"
                " in a folder that this user may write to"
            ) from error

    def write(self, word: str) -> None:
        """Write it anew, unless *word* is empty: once a second at most.

        A disk that fails is ignored.
        """
        now = time.monotonic()
        if word and now >= self._next:
            self._next = now + _WRITE_EVERY
            with suppress(OSError):
                self._path.write_text(f"{word}\n")

    def remove(self) -> None:
        """The process ends."""
        with suppress(OSError):
            self._path.unlink()


@contextmanager
def answering(address: Address | None, look: Look) -> Iterator[None]:
    """Answer HTTP requests during the block: 200 with one word, or 503.

    :raises Failure: the port can't be used.
    """
    if address is None:
        yield
        return
    try:
        server = _server(address, look)
    except OSError as error:
        raise Failure(
            f"Can't listen on {address.host}:{address.port}: {error.strerror}. Choose"
            " another --health-port"
        ) from error
    thread = OwnThread(server.serve_forever, "eventcollector-health")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _server(address: Address, look: Look) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT
        # Whatever was asked for, also by old clients.
        server_version, sys_version = "flask-eventcollector", ""

        def do_GET(self) -> None:
            word = look()
            body = f"{word or 'unhealthy'}\n".encode()
            self.send_response(200 if word else 503)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

        def server_bind(self) -> None:
            # HTTPServer's own asks the resolver for a name that nobody needs.
            TCPServer.server_bind(self)

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has hung up is no failure."""

    return Server((address.host, address.port), Handler)
