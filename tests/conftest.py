"""Brokers and databases for all tests, and a report on tests that could not run."""

import importlib.util
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import hypothesis
import pytest

from flask_eventcollector.stores.spool import adopter, writer
from flask_eventcollector.verifying.node import find_programs
from tests import external_rabbitmq
from tests.databases import (
    DatabaseServer,
    MariaDB,
    PgBouncer,
    PostgreSQL,
    missing_mariadb,
    missing_pgbouncer,
    missing_postgresql,
)
from tests.external_rabbitmq import ExternalRabbitMQ
from tests.helpers import DEADLINE
from tests.rabbitmq import RabbitMQNode

# No deadline, since a loaded machine is not a bug. In CI, the examples are the same
# every time.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# A project of its own, which `testing/test_sample_project.py` runs.
collect_ignore = ["sample-project"]

MISSING = "not run, missing: "
RABBITMQ_VERSION = pytest.StashKey[str]()


def _missing_rabbitmq() -> str | None:
    if find_programs() or external_rabbitmq.find_port():
        return None
    return "RabbitMQ (Debian: rabbitmq-server)"


def _missing_browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "Playwright's Python package"
    return None if shutil.which("chromium") else "Chromium (Debian: chromium)"


# What the tests with a marker need besides Python packages.
NEEDS: dict[str, Callable[[], str | None]] = {
    "rabbitmq": _missing_rabbitmq,
    "browser": _missing_browser,
}


def _require(marker: str) -> None:
    require(NEEDS[marker]())


def require(missing: str | None) -> None:
    """Skip the test if something that it needs is missing; under CI, fail it."""
    if missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(MISSING + missing, pytrace=False)
    pytest.skip(MISSING + missing)


def _needs(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use a server, so that `-m "not rabbitmq"` deselects them."""
    brokers = {"rabbitmq", "private_rabbitmq"}
    servers = {"postgresql", "pgbouncer", "mariadb"}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if brokers & fixtures:
            item.add_marker("rabbitmq")
        # A test on several databases has the name of its own.
        if servers & {*fixtures, *_parameters(item)}:
            item.add_marker("database")


def _parameters(item: pytest.Item) -> list[object]:
    callspec = getattr(item, "callspec", None)
    values = [] if callspec is None else callspec.params.values()
    return [value for value in values if isinstance(value, str)]


@pytest.fixture(autouse=True)
def no_lines_of_earlier_tests() -> Iterator[None]:
    """Keep apps that earlier tests have left, and that end only now, from the log."""
    earlier = set(threading.enumerate()) - {threading.current_thread()}

    def is_of_this_test(record: logging.LogRecord) -> bool:
        return threading.current_thread() not in earlier

    logger = logging.getLogger("flask_eventcollector")
    logger.addFilter(is_of_this_test)
    yield
    logger.removeFilter(is_of_this_test)


def pytest_report_header() -> str:
    if port := external_rabbitmq.find_port():
        return f"RabbitMQ: an external one, on port {port}"
    return f"RabbitMQ: {find_programs() or 'not found'}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in NEEDS:
        if _needs(item, marker):
            _require(marker)


def pytest_sessionfinish(session: pytest.Session) -> None:
    # In a worker of pytest-xdist; the reporting process has no node.
    output = getattr(session.config, "workeroutput", None)
    version = session.config.stash.get(RABBITMQ_VERSION, None)
    if output is not None and version:
        output["rabbitmq"] = version


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # A worker that has crashed has no output.
    if version := getattr(node, "workeroutput", {}).get("rabbitmq"):
        node.config.stash[RABBITMQ_VERSION] = version


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if version := config.stash.get(RABBITMQ_VERSION, None):
        terminalreporter.line(f"RabbitMQ {version}")
    reasons = [
        str(report.longrepr[-1]).removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple)
    ]
    missing = [reason for reason in reasons if reason.startswith(MISSING)]
    if not missing:
        return
    terminalreporter.section("tests that did not run", yellow=True)
    for reason in sorted(set(missing)):
        terminalreporter.line(f"{missing.count(reason)} tests {reason}", yellow=True)


@pytest.fixture(scope="session", autouse=True)
def _patience_with_the_disk() -> Iterator[None]:
    """Let calls wait as long as they must for a disk that others keep busy.

    Otherwise they return after a second, and what should be on disk is not yet.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (adopter, writer):
            patch.setattr(module, "LONGEST_WAIT", DEADLINE)
        yield


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> Iterator[RabbitMQNode]:
    """A running node for all tests that only need a broker.

    They share it: use unique queue names (`queue_name`, `make_queue`), and leave it
    running.
    """
    _require("rabbitmq")
    port = external_rabbitmq.find_port()
    node = ExternalRabbitMQ(port) if port else RabbitMQNode()
    yield from _running_node(node, pytestconfig)


@pytest.fixture(scope="session")
def _second_node(pytestconfig: pytest.Config) -> Iterator[RabbitMQNode]:
    if external_rabbitmq.find_port():
        external_rabbitmq.skip()
    _require("rabbitmq")
    yield from _running_node(RabbitMQNode(), pytestconfig)


def _running_node(node: RabbitMQNode, config: pytest.Config) -> Iterator[RabbitMQNode]:
    try:
        node.start()
        config.stash[RABBITMQ_VERSION] = node.version
        yield node
    finally:
        node.close()


@pytest.fixture
def private_rabbitmq(_second_node: RabbitMQNode) -> RabbitMQNode:
    """A running, empty node that the test may stop, kill, freeze or alarm.

    All tests share it. Each test gets it in its initial state, so no test needs to
    clean up.
    """
    _second_node.restore()
    return _second_node


@pytest.fixture
def queue_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A queue name that no other test uses; the queue on `rabbitmq` is deleted."""
    name = _unique_name(request)
    yield name
    if "rabbitmq" in request.fixturenames:
        request.getfixturevalue("rabbitmq").delete(name)


@pytest.fixture
def make_queue(
    rabbitmq: RabbitMQNode, request: pytest.FixtureRequest
) -> Iterator[Callable[..., str]]:
    """Declares queues on `rabbitmq`; takes a queue's arguments, returns its name.

    `make_queue(x_max_length=1)` declares one with the argument `x-max-length`.
    """
    names: list[str] = []

    def make(**arguments: str | int | bool) -> str:
        names.append(_unique_name(request))
        return rabbitmq.declare(names[-1], **arguments)

    yield make
    for name in names:
        rabbitmq.delete(name)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL, shared by the worker's tests: use `new_database()`."""
    require(missing_postgresql())
    yield from _running_server(PostgreSQL())


@pytest.fixture(scope="session")
def pgbouncer(request: pytest.FixtureRequest) -> Iterator[PgBouncer]:
    """A running PgBouncer before the `postgresql` that the tests share."""
    require(missing_pgbouncer())
    yield from _running_server(PgBouncer(request.getfixturevalue("postgresql")))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A running MariaDB, shared by the worker's tests: use `new_database()`."""
    require(missing_mariadb())
    yield from _running_server(MariaDB())


S = TypeVar("S", bound=DatabaseServer)


def _running_server(server: S) -> Iterator[S]:
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, for SQLAlchemy; the test runs on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite3'}"
    server: DatabaseServer = request.getfixturevalue(request.param)
    return server.new_database()


def _unique_name(request: pytest.FixtureRequest) -> str:
    return f"{request.node.originalname}-{uuid4().hex[:8]}"
