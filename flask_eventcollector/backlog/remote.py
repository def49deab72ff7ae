"""What the command line asks of the process that owns a file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..ledger import Ledger
from .folder import REQUEST


class Wish(NamedTuple):
    """To retry, or to purge, some events of a file."""

    #: ``"retry"`` or ``"purge"``.
    what: str
    ids: Sequence[str]


def ask(path: Path, wish: Wish) -> bool:
    """Leave *wish* beside the file *path*; ``False``: another one is there.

    It is written whole before it has its name, so the owner never reads half of it.

    :raises OSError: the folder does not let it.
    """
    unnamed = f"{path}.{secrets.token_hex(4)}{REQUEST}"
    descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"what": wish.what, "ids": list(wish.ids)}, file)
        os.link(unnamed, _request_of(path))
    except FileExistsError:
        return False
    finally:
        os.unlink(unnamed)
    return True


def is_pending(path: Path) -> bool:
    """Whether a wish is beside the file *path* that its owner has not fulfilled."""
    return _request_of(path).exists()


def take_back(path: Path) -> None:
    """Remove the wish: nobody waits for it any more."""
    with suppress(OSError):
        os.unlink(_request_of(path))


def fulfil(path: Path, ledger: Ledger) -> bool:
    """Do what was asked of the owner of *path*; returns whether anything was."""
    wish = _wish_for(path)
    if wish is None:
        return False
    if wish.what == "retry":
        ledger.retry(wish.ids)
    elif wish.what == "purge":
        # The flusher tells it.
        ledger.news.extend(ledger.purge(wish.ids))
    take_back(path)
    return True


def _wish_for(path: Path) -> Wish | None:
    try:
        text = _request_of(path).read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        asked = json.loads(text)
        return Wish(str(asked["what"]), [str(id) for id in asked["ids"]])
    except (ValueError, TypeError, KeyError):
        # Nobody of ours wrote that. A wish for nothing is fulfilled at once.
        return Wish("", [])


def _request_of(path: Path) -> Path:
    return path.with_name(path.name + REQUEST)
