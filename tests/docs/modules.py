"""The files of a page, as modules that can import each other."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flask_eventcollector import EventCollector
from tests.docs.reader import Example


@contextmanager
def imported(*examples: Example) -> Iterator[list[Any]]:
    """Import each example under the name of its file, in order.

    At the end, the modules are removed, and their collectors are closed.
    """
    with pytest.MonkeyPatch.context() as patch:
        modules = [_import(example, patch) for example in examples]
        try:
            yield modules
        finally:
            for events in _collectors(modules):
                events.close(0)


def _import(example: Example, patch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(Path(example.file).stem)
    patch.setitem(sys.modules, module.__name__, module)
    exec(compile(example.code, str(example), "exec"), module.__dict__)
    return module


def _collectors(modules: Iterable[ModuleType]) -> Iterator[EventCollector]:
    for module in modules:
        if isinstance(events := getattr(module, "events", None), EventCollector):
            yield events


def write(folder: Path, *examples: Example) -> None:
    """Write each example into its file."""
    for example in examples:
        (folder / example.file).write_text(example.code)
