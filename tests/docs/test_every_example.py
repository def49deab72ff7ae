"""Each example of each page is run by a test, or is listed here with a reason."""

from __future__ import annotations

import importlib
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docs.reader import EXAMPLES, Example, find, runners, runs_each

#: Page and first words of what is not run, and why.
NOT_RUN = {
    ("CONTRIBUTING.md", "git clone"): "it needs the network; CI does the same steps",
    ("CONTRIBUTING.md", "docker run"): "it needs Docker; CI runs it with a service",
    ("docs/monitoring.md", "pip install"): "the tests have installed it",
    ("docs/monitoring.md", "flask events why"): "tests/cli/test_history.py calls them",
    ("docs/quickstart.md", "pip install"): "scripts/check_package.py installs it",
    ("docs/verify.md", "rabbitmqctl"): "it needs the system's own RabbitMQ",
    ("example_app/README.md", "pip install"): "tests/example starts it on free ports",
    (
        "example_app/README.md",
        "export FLASK_EVENTCOLLECTOR_BROKER_URL",
    ): "tests/example/test_shop_with_rabbitmq.py does this with its own broker",
    (
        "example_app/README.md",
        "export FLASK_EVENTCOLLECTOR_BACKLOG",
    ): "tests/example/test_shop_killed.py does this in a folder of its own",
    (
        "example_app/README.md",
        "export FLASK_EVENTCOLLECTOR_OUTBOX",
    ): "tests/example/test_shop_in_browser.py does this on a free port",
}


def not_run() -> list[Example]:
    found = [
        [example for example in find(page=page) if example.code.startswith(words)]
        for page, words in NOT_RUN
    ]
    assert all(len(examples) == 1 for examples in found), "NOT_RUN is out of date"
    return [example for (example,) in found]


@runs_each(not_run())
def test_what_is_not_run_is_at_least_valid(example: Example) -> None:
    assert example.language == "sh"
    subprocess.run(["/bin/sh", "-n"], input=example.code, text=True, check=True)


def test_each_example_is_run_by_one_test() -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        # Some need Sphinx, and run no example.
        with suppress(pytest.skip.Exception):
            importlib.import_module(f"{__package__}.{path.stem}")

    wrong = {str(e): runners[e] for e in EXAMPLES if len(runners[e]) != 1}

    assert wrong == {}, "run each by one test: see runs() in tests/docs/reader.py"
