"""What the command line asks of the process that owns a file."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from ...delivery.ledger import Ledger
from .folder import REQUEST


class ControlRequest(NamedTuple):
    """To retry, or to purge, some events of a file."""

    #: ``"retry"`` or ``"purge"``.
    action: str
    ids: list[str]


def submit(path: Path, request: ControlRequest) -> bool:
    """Leave *wish* beside the file *path*; ``False``: another one is there.

    It is written whole before it has its name, so the owner never reads half of it.

    :raises OSError: the folder does not let it.
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
    """Whether *wish* is beside the file *path*: its owner has not fulfilled it."""
    return pending_request(path) == request


def withdraw(path: Path, request: ControlRequest) -> bool:
    """Remove *wish*, unless another has taken its place; returns whether it did."""
    if not is_pending(path, request):
        return False
    try:
        os.unlink(_request_of(path))
    except OSError:
        return False
    return True


def pending_request(path: Path) -> ControlRequest | None:
    """What is asked of the owner of *path*, which then calls :func:`withdraw`."""
    try:
        text = _request_of(path).read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        content = json.loads(text)
        return ControlRequest(
            str(content["action"]), [str(id) for id in content["ids"]]
        )
    except (ValueError, TypeError, KeyError):
        # Nobody of ours wrote that. A wish for nothing is fulfilled at once.
        return ControlRequest("", [])


def apply(request: ControlRequest, ledger: Ledger) -> None:
    """Do what is asked, with the events that are in memory."""
    if request.action == "retry":
        ledger.retry(request.ids)
    elif request.action == "purge":
        ledger.defer(ledger.purge(request.ids))


def _request_of(path: Path) -> Path:
    return path.with_name(path.name + REQUEST)
