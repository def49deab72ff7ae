"""A project that uses the installed package, in a new environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Seconds, mostly for the package index.
PATIENCE = 300


def run(*command: str, folder: Path) -> str:
    """Run *command* in *folder*, as in a user's shell; return its output."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the package's wheel and pytest only."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    options = ("--quiet", "--disable-pip-version-check")
    run(
        *(python, "-m", "pip", "install", *options),
        *(str(ROOT), "pytest", "pytest-xdist"),
        folder=folder,
    )
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the sample project, outside of this project's configuration."""
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
    copy = tmp_path / "project"
    return Path(
        shutil.copytree(ROOT / "tests" / "sample-project", copy, ignore=ignored)
    )


@pytest.mark.slow
def test_a_project_can_use_the_installed_kit(python: str, project: Path) -> None:
    where = "import flask_eventcollector as f; print(f.__file__)"
    assert "site-packages" in run(python, "-c", where, folder=project)

    for options in (("-p", "no:randomly"), ("-n", "2")):
        said = run(python, "-m", "pytest", *options, folder=project)

        assert "17 passed" in said.splitlines()[-1]
