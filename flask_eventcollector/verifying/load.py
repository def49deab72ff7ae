"""A bounded load over HTTP, which records responses and their times."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request."""

    path: str
    #: 0: no response, because the worker had ended, or because of a timeout.
    status: int
    seconds: float
    #: The keys of the events that the request has enqueued, according to its response.
    keys: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class Load:
    """Sends requests to an app, from several threads."""

    port: int
    threads: int = 8
    #: The pause of each thread between two requests, in seconds.
    pause: float = 0.0
    #: The timeout of a client in seconds; a longer time counts as this long.
    patience: float = 10.0
    #: A client stops after this many requests in a row without a response.
    tries: int = 3
    answers: list[Answer] = field(default_factory=list)
    _clients: list[threading.Thread] = field(default_factory=list)
    _is_stopped: bool = False

    @property
    def is_running(self) -> bool:
        """Whether any client is still running: all may have stopped."""
        return any(client.is_alive() for client in self._clients)

    def run(self, paths: Iterable[str]) -> list[Answer]:
        """Send all requests; return their answers."""
        before = len(self.answers)
        with self.running(paths):
            pass
        return self.answers[before:]

    @contextmanager
    def running(self, paths: Iterable[str]) -> Iterator[None]:
        """Send them during the block, and until the last one is answered.

        There may be no end of them, if `stop` is called.
        """
        todo = iter(paths)
        turn = threading.Lock()
        self._clients = [
            threading.Thread(target=self._work, args=(todo, turn))
            for _ in range(self.threads)
        ]
        for client in self._clients:
            client.start()
        try:
            yield
        finally:
            for client in self._clients:
                client.join()

    def stop(self) -> None:
        """Send no more requests."""
        self._is_stopped = True

    def _work(self, todo: Iterator[str], turn: threading.Lock) -> None:
        unanswered = 0
        while unanswered < self.tries and not self._is_stopped:
            with turn:
                path = next(todo, None)
            if path is None:
                return
            answer = post(self.port, path, self.patience)
            self.answers.append(answer)
            unanswered = 0 if answer.status else unanswered + 1
            time.sleep(self.pause)


def post(port: int, path: str, patience: float) -> Answer:
    """Send one request on a new connection; never raises."""
    began = time.perf_counter()
    try:
        status, body = _post(port, path, patience)
        keys = tuple(json.loads(body)) if status == 201 else ()
    except (OSError, HTTPException, ValueError):
        # There is no response, or it was cut off, in its head or after it.
        status, keys = 0, ()
    return Answer(path, status, time.perf_counter() - began, keys)


def _post(port: int, path: str, patience: float) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        connection.request("POST", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def p99(answers: Iterable[Answer]) -> float:
    """The 99th percentile of the times, in seconds."""
    seconds = [answer.seconds for answer in answers]
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]
