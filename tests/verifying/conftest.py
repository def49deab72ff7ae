"""What the tests of ``flask events verify`` have in common."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes without measurement of coverage, as `unmeasured` explains."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
