"""Reads each setting of the page in the three forms that it shows."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import flask
import pytest

from flask_eventcollector.config.settings import Config
from tests.docs.reader import ROOT

PAGE = (ROOT / "docs" / "reference" / "settings.md").read_text()
#: In Python, in TOML, and in the environment.
ROWS = re.findall(
    r"^\| `(EVENT\S+ = .+?)` \| `(EVENT.+?)` \| `(FLASK_.+?)` \|$", PAGE, re.M
)


def test_there_are_rows() -> None:
    assert len(ROWS) == 8


@pytest.mark.parametrize(("python", "toml", "shell"), ROWS)
def test_each_form_of_a_setting_is_read_alike(
    python: str, toml: str, shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.py").write_text(python)
    (tmp_path / "config.toml").write_text(toml)
    variable, _, text = shlex.split(shell)[0].partition("=")
    monkeypatch.setenv(variable, text)
    apps = [flask.Flask(__name__, root_path=str(tmp_path)) for _ in range(3)]

    apps[0].config.from_pyfile("config.py")
    apps[1].config.from_prefixed_env()
    if sys.version_info >= (3, 11):
        import tomllib

        apps[2].config.from_file("config.toml", load=tomllib.load, text=False)
    else:
        apps.pop()

    expected, *others = [Config.from_app(app) for app in apps]
    assert expected != Config()
    assert all(other == expected for other in others)
