"""How the app's server is started, as far as that can be seen from here."""

from __future__ import annotations

import argparse
import ast
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

#: Read from the working folder if no other one is named.
#: https://docs.gunicorn.org/en/stable/configure.html
_CONFIG = "gunicorn.conf.py"


class Gunicorn(NamedTuple):
    """The settings of gunicorn that matter here, with its defaults."""

    worker_class: str = "sync"
    workers: int = 1
    timeout: float = 30
    graceful_timeout: float = 30
    preload_app: bool = False
    #: Where they come from; ``""``: there is no sign of gunicorn.
    source: str = ""


def gunicorn(lines: Sequence[Sequence[str]] = ()) -> Gunicorn:
    """Its settings: of its file, then of GUNICORN_CMD_ARGS, then of a command line.

    :param lines: the command lines of the app's processes, if it has any.
    """
    line = next((line for line in lines if _is_gunicorn(line)), [])
    told, found = _read(line), dict[str, Any]()
    if workers := os.environ.get("WEB_CONCURRENCY"):
        found |= _read(["--workers", workers]) | {"source": "WEB_CONCURRENCY"}
    config = str(told.pop("config", _CONFIG)).removeprefix("file:")
    with suppress(OSError, SyntaxError, ValueError):
        found |= _of_file(Path(config).read_text()) | {"source": config}
    if arguments := os.environ.get("GUNICORN_CMD_ARGS"):
        with suppress(ValueError):
            found |= _read(shlex.split(arguments)) | {"source": "GUNICORN_CMD_ARGS"}
    if line:
        found |= told | {"source": "the command line of a worker"}
    return Gunicorn(**{name: found[name] for name in found if name != "config"})


def _is_gunicorn(line: Sequence[str]) -> bool:
    return any("gunicorn" in Path(word).name for word in line[:3])


def command_lines(processes: Iterator[int]) -> list[list[str]]:
    """The command lines of *processes*, as far as they can be read."""
    found = []
    for process in processes:
        with suppress(OSError):
            text = Path(f"/proc/{process}/cmdline").read_text("utf-8", "replace")
            found.append(text.rstrip("\0").split("\0"))
    return found


def _of_file(source: str) -> dict[str, Any]:
    """What a file assigns, as far as it is a plain value; it is not run."""
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            with suppress(ValueError, TypeError):
                if name in _TYPES:
                    found[name] = _TYPES[name](ast.literal_eval(node.value))
    return found


_TYPES: Mapping[str, Any] = {
    "worker_class": str,
    "workers": int,
    "timeout": float,
    "graceful_timeout": float,
    "preload_app": bool,
}
_PARSER = argparse.ArgumentParser(
    add_help=False, allow_abbrev=False, exit_on_error=False
)
_PARSER.add_argument("-c", "--config", default=argparse.SUPPRESS)
_PARSER.add_argument("-k", "--worker-class", default=argparse.SUPPRESS)
_PARSER.add_argument("-w", "--workers", type=int, default=argparse.SUPPRESS)
_PARSER.add_argument("-t", "--timeout", type=float, default=argparse.SUPPRESS)
_PARSER.add_argument("--graceful-timeout", type=float, default=argparse.SUPPRESS)
_PARSER.add_argument(
    "--preload", dest="preload_app", action="store_true", default=argparse.SUPPRESS
)


def _read(arguments: Sequence[str]) -> dict[str, Any]:
    with suppress(argparse.ArgumentError):
        return vars(_PARSER.parse_known_args(arguments)[0])
    return {}
