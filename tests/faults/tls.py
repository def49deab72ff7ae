"""A TLS proxy for a broker without TLS, with trusted or untrusted certificates."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

import trustme


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def context(
        self,
        name: str = "localhost",
        *,
        begins: datetime | None = None,
        ends: datetime | None = None,
    ) -> ssl.SSLContext:
        """The TLS context of a server with a certificate for *name*."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate = self._authority.issue_cert(
            name, not_before=begins, not_after=ends
        )
        certificate.configure_cert(context)
        return context

    @contextmanager
    def file(self) -> Iterator[Path]:
        """A file with its own certificate, for clients."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ca.pem"
            self._authority.cert_pem.write_to_path(str(path))
            yield path


class TLSProxy:
    """Listens with TLS, and forwards the plain data to a port."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        #: The TLS context for the next client.
        self.context = context
        #: How many clients have accepted the certificate.
        self.opened = 0
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> TLSProxy:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in [self._listener, *self._sockets]:
            each.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                with suppress(OSError):
                    self._connect(plain)

    def _connect(self, plain: socket.socket) -> None:
        # A client that rejects the certificate closes the connection meanwhile.
        plain.settimeout(5)
        self._sockets.append(plain)
        client = self.context.wrap_socket(plain, server_side=True)
        client.settimeout(None)
        broker = socket.create_connection(self._to)
        self._sockets += [client, broker]
        self.opened += 1
        _pipe(client, broker)
        _pipe(broker, client)


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    def run() -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=run, daemon=True).start()
