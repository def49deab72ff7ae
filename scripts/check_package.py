"""Looks into a built wheel and sdist, and uses the wheel as its users will."""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

PACKAGE = "flask_eventcollector"
IN_SDIST = (
    "CHANGES.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "tox.ini",
    # What tests/test_project.py reads.
    ".github/workflows/tests.yml",
    ".pre-commit-config.yaml",
    "benchmarks/__init__.py",
    "docs/architecture.md",
    "docs/messages.md",
    "example_app/__init__.py",
    "example_app/templates/index.html",
    f"{PACKAGE}/py.typed",
    "scripts/consumers",
    "tests/conftest.py",
)
#: The dashboard's files that are no modules.
DATA = (
    "static/dashboard.css",
    "static/dashboard.js",
    "static/icon.svg",
    "templates/base.html",
    "templates/parts/targets.html",
)
NOT_PACKED = ("__pycache__", ".pyc", ".sqlite3", "node_modules")

# As a user would: with a queue that takes the event, and no broker.
USE = f"""
import flask, {PACKAGE}
app = flask.Flask("user")
app.config.update(TESTING=True, EVENTCOLLECTOR_BROKER_URL="memory://")
events = {PACKAGE}.EventCollector(app)
app.register_blueprint(events.dashboard(authorize=lambda: True))
with app.app_context(), events.auto_publish():
    events.enqueue_event({{"order_id": 7}}, "orders.created")
with app.app_context():
    assert events.flush(timeout=10)
    assert events.stats().confirmed == 1, events.stats()
page = app.test_client().get("/eventcollector/")
assert page.status_code == 200, page.text
"""


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as packed:
        check_wheel(packed.namelist())
    with tarfile.open(sdist) as packed_source:
        check_sdist(packed_source.getnames())
    use(wheel)


def check_wheel(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    others = {top for top in tops - {PACKAGE} if not top.endswith(".dist-info")}
    require(not others, f"the wheel holds more than the package: {others}")
    require(f"{PACKAGE}/py.typed" in names, "the wheel lacks py.typed")
    missing = {f"{PACKAGE}/dashboard/{file}" for file in DATA} - set(names)
    require(not missing, f"the wheel lacks {missing}")
    check_left_out(names)


def check_sdist(names: list[str]) -> None:
    inside = {name.partition("/")[2] for name in names}
    missing = set(IN_SDIST) - inside
    require(not missing, f"the sdist lacks {missing}")
    check_left_out(names)


def check_left_out(names: list[str]) -> None:
    wrong = [name for name in names if any(part in name for part in NOT_PACKED)]
    require(not wrong, f"packed by mistake: {wrong}")


def use(wheel: Path) -> None:
    """Install the wheel alone, and use it from a folder that is not the project's."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        run(python, "-m", "pip", "install", "--quiet", str(wheel.resolve()))
        run(python, "-c", USE, cwd=folder)


def run(*command: str, cwd: str | None = None) -> None:
    # The commands are this file's own.
    subprocess.run(command, cwd=cwd, check=True)  # noqa: S603


def require(condition: bool, message: str) -> None:
    if not condition:
        sys.exit(message)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
