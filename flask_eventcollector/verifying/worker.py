"""The app under load, in a process of its own, which its parent may kill.

It reads its :class:`Job` from stdin, as one line of JSON, and ends when stdin does:
then its parent is gone. `Workers` runs it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from uuid import uuid4
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

from ..signals import events_dropped, events_published
from .side_file import confirmed_in, dropped_in, note

#: Events of each request.
EVENTS = 5
#: What a worker says once it serves requests.
READY = "ready\n"


@dataclass(frozen=True)
class Job:
    """What a worker does."""

    #: The app's settings.
    settings: dict[str, Any]
    queue: str
    side_file: str
    #: The descriptor of a socket that listens, which all workers share.
    listener: int


def create_app(job: Job) -> Flask:
    """An app whose requests enqueue events, and note their keys before."""
    from ..extension import EventCollector

    app = Flask("verify")
    app.config.update(job.settings)
    events = EventCollector(app)
    _note_signals(app, job.side_file)

    @app.post("/orders/<int:order>")
    def place(order: int) -> ResponseReturnValue:
        name = new_name(order)
        keys = [f"{name}.{place}" for place in range(EVENTS)]
        for key in keys:
            note(job.side_file, key, name)
            events.enqueue_event({"key": key, "order": order}, job.queue)
        return jsonify(keys), 201

    @app.post("/orders/<int:order>/refused")
    def refuse(order: int) -> ResponseReturnValue:
        # The key is not noted, so the event must never arrive.
        event = {"key": f"{new_name(order)}.refused", "order": order}
        events.enqueue_event(event, job.queue)
        return "refused", 409

    @app.get("/stats")
    def stats() -> dict[str, Any]:
        return {**events.stats().as_dict(), "pid": os.getpid()}

    return app


def new_name(order: int) -> str:
    """What the keys of a request's events begin with; see :func:`process_of`."""
    return f"{order}-{os.getpid()}-{uuid4().hex[:8]}"


def process_of(key: str) -> int:
    """The process that has enqueued the event with this key."""
    return int(key.split("-")[1])


def _note_signals(app: Flask, side_file: str) -> None:
    """Note each event that the library reports as published or dropped."""

    def noting(path: Path) -> Any:
        def receive(sender: Flask, events: tuple[Any, ...], **extra: Any) -> None:
            for event in events:
                note(path, event.payload["key"], "-")

        return receive

    events_published.connect(noting(confirmed_in(side_file)), app, weak=False)
    events_dropped.connect(noting(dropped_in(side_file)), app, weak=False)


class _Handler(WSGIRequestHandler):
    # Without one, a BSD's connections would not wait, as the shared socket doesn't.
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Only the library's own log is of interest."""


class _Server(ThreadingMixIn, WSGIServer):
    """Serves requests from a socket that other processes accept from, too."""

    daemon_threads = True

    def __init__(self, app: Flask, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        # Another worker may have been faster, then this one must not wait.
        self.socket.setblocking(False)
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()
        self.set_app(app)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _on_sigterm(number: int, frame: object) -> None:
    # The library's exit handlers run.
    sys.exit()


def serve(app: Flask, job: Job) -> None:
    """Serve requests until SIGTERM, or until the parent is gone."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server = _Server(app, socket.socket(fileno=job.listener))
    sys.stdout.write(READY)
    sys.stdout.flush()
    server.serve_forever()


def read_job() -> Job:
    """What this process has been told to do."""
    return Job(**json.loads(sys.stdin.readline()))


def main() -> None:
    """Do what a worker does."""
    job = read_job()
    serve(create_app(job), job)


if __name__ == "__main__":
    main()
