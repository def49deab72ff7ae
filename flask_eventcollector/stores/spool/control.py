"""Passes requests from the command line to the process that owns a file."""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from ...delivery.ledger import Ledger
from ...delivery.periodic_worker import TICK
from ...messages.amqp_fields import check_name
from .folder import REQUEST

#: Seconds between two looks for a request while there may be more of them. Under load,
#: the thread that looks runs hundreds of times a second.
LOOK_INTERVAL = 0.05
#: Seconds after a request in which a command may write the next one.
MORE_WITHIN = 1.0


class ControlRequest(NamedTuple):
    """A request to retry, purge or redirect some events of a file."""

    #: ``"retry"``, ``"purge"`` or ``"redirect"``.
    action: str
    ids: list[str]
    #: The new target queue of a ``"redirect"``.
    queue: str = ""


class Expected:
    """Whether there may be more requests: a command writes one after the other."""

    def __init__(self) -> None:
        self._until = float("-inf")

    def note(self) -> None:
        """A request was applied now."""
        self._until = time.monotonic() + MORE_WITHIN

    @property
    def pause(self) -> float:
        """Seconds until the next look at the latest."""
        return LOOK_INTERVAL if time.monotonic() < self._until else TICK


def submit(path: Path, request: ControlRequest) -> bool:
    """Write *request* next to the file *path*; ``False``: another one is pending.

    It gets its name only once it is complete, so the owner never reads a partial one.

    :raises OSError: the folder can't be written.
    """
    unnamed = f"{path}.{secrets.token_hex(4)}{REQUEST}"
    descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(request._asdict(), file)
        os.link(unnamed, _request_of(path))
    except FileExistsError:
        return False
    finally:
        os.unlink(unnamed)
    return True


def is_pending(path: Path, request: ControlRequest) -> bool:
    """Whether *request* is still next to *path*, so its owner has not applied it."""
    return pending_request(path) == request


def withdraw(path: Path, request: ControlRequest) -> bool:
    """Remove *request* unless another replaced it; returns whether it was removed."""
    if not is_pending(path, request):
        return False
    try:
        os.unlink(_request_of(path))
    except OSError:
        return False
    return True


def pending_request(path: Path) -> ControlRequest | None:
    """The request to the owner of *path*, which calls :func:`withdraw` afterwards."""
    try:
        text = _request_of(path).read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        content = json.loads(text)
        action, ids = str(content["action"]), [str(id) for id in content["ids"]]
        if action != "redirect":
            return ControlRequest(action, ids)
        return ControlRequest(action, ids, check_name(content["queue"], "queue"))
    except (ValueError, TypeError, KeyError):
        # The library did not write this. An empty request is applied at once.
        return ControlRequest("", [])


def apply(request: ControlRequest, ledger: Ledger) -> None:
    """Apply *request* to the events that are in memory."""
    if request.action == "retry":
        ledger.retry(request.ids)
    elif request.action == "purge":
        ledger.purge(request.ids)
    elif request.action == "redirect":
        ledger.redirect(request.ids, request.queue)


def _request_of(path: Path) -> Path:
    return path.with_name(path.name + REQUEST)
