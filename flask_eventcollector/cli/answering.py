"""Answers HTTP requests about this process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import NamedTuple

from ..delivery.threads import OwnThread
from .exit_codes import Failure

TEXT = "text/plain; charset=utf-8"
#: Seconds that one client may take.
_TIMEOUT = 5.0


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


class Answer(NamedTuple):
    """What every request gets, whatever it asks for."""

    body: bytes
    status: int = 200
    content_type: str = TEXT


@contextmanager
def answering(
    address: Address | None, answer: Callable[[], Answer], option: str
) -> Iterator[None]:
    """Answer HTTP requests during the block.

    :param address: ``None``: there is no server.
    :param option: which option has named it, such as ``--health-port``.
    :raises Failure: the port can't be used.
    """
    if address is None:
        yield
        return
    try:
        server = _server(address, answer)
    except OSError as error:
        raise Failure(
            f"Can't listen on {address.host}:{address.port}: {error.strerror}. Choose"
            f" another {option}"
        ) from error
    thread = OwnThread(
        server.serve_forever, f"eventcollector-{option.strip('-').partition('-')[0]}"
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _server(address: Address, answer: Callable[[], Answer]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT
        # Whatever was asked for, also by old clients.
        server_version, sys_version = "flask-eventcollector", ""

        def do_GET(self) -> None:
            body, status, content_type = answer()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Requests come every few seconds."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

        def server_bind(self) -> None:
            # HTTPServer's own asks the resolver for a name that nobody needs.
            TCPServer.server_bind(self)

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has hung up is no failure."""

    return Server((address.host, address.port), Handler)
