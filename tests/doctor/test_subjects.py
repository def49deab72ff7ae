"""Single checks, where no broker is needed, or one that misbehaves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pika import spec

from flask_eventcollector.app_state import state_of
from flask_eventcollector.doctor import (
    broker,
    case,
    host,
    monitoring,
    settings,
    spool,
    targets,
    threads,
)
from flask_eventcollector.doctor import topology as topology_checks
from flask_eventcollector.doctor.case import Case, address
from flask_eventcollector.doctor.findings import Finding, Level
from flask_eventcollector.monitoring import life, opentelemetry
from tests.doctor.support import complaints
from tests.helpers import DEADLINE, Shop, open_shop, unmeasured
from tests.isolation.fake_broker import FakeBroker
from tests.spool.support import HERE, leave


def case_of(shop: Shop) -> Case:
    state = state_of(shop)
    assert state is not None
    with shop.app_context():
        return Case(state)


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """An app on the memory broker."""
    monkeypatch.chdir(tmp_path)
    return case_of(Shop(BROKER_URL="memory://", HISTORY_DIR=str(tmp_path / "h")))


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize(
    ("more", "words"), [({}, "1 is set"), ({"HEARTBEAT": 9}, "2 are set")]
)
def test_the_settings_are_counted(more: Any, words: str) -> None:
    found = settings.names(case_of(Shop(BROKER_URL="memory://", **more)))
    assert only([*found]).what == f"{words}, and known"


# Threads and host


@pytest.mark.parametrize(
    ("version", "count"), [((3, 12, 2), 1), ((3, 12, 3), 0), ((3, 11, 9), 0)]
)
def test_versions_of_python_that_start_no_threads_at_exit(
    version: Any, count: int, plain: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert len([*threads.python(plain)]) == count


@pytest.mark.parametrize("is_late", [True, False])
def test_the_order_of_imports_tells_whether_gevent_patches_late(is_late: bool) -> None:
    pytest.importorskip("gevent")
    lines = [
        "from gevent.monkey import patch_all; patch_all()",
        "from flask_eventcollector.delivery import threads",
    ]
    code = [*(lines[::-1] if is_late else lines), "print(threads.was_patched_late())"]
    said = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=unmeasured(),
    )
    assert said.stdout == f"{is_late}\n"


def test_a_process_with_too_many_open_files(
    plain: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = 2**22 + 1
    monkeypatch.setattr(Case, "processes", lambda _: {os.getpid(), gone})
    assert complaints([*host.files(plain)]) == []
    monkeypatch.setattr(os, "listdir", lambda _: range(10**9))
    finding = only([*host.files(plain)])
    assert f"process {os.getpid()} has opened 1000000000 of " in finding.what


def test_a_clock_that_begins_in_1970(
    plain: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 100.0)
    assert "clock is wrong: it is early" in only([*host.clock(plain)]).what


def test_processes_are_known_by_their_history(plain: Case, tmp_path: Path) -> None:
    folder = tmp_path / "h"
    folder.mkdir()
    for pid in (4711, os.getpid()):
        counts = f'{{"pid": {pid}, "at": {time.time()}, "stats": {{}}}}'
        (folder / f"shop@{pid}@x.json").write_text(counts)
        life.show_life(folder / f"shop@{pid}@x.lock")
    assert plain.processes() == {4711}


@pytest.mark.parametrize(
    "line", ["uwsgi --http :80 -w shop:app", "uwsgi shop.ini", "uwsgi --ini=shop.ini"]
)
def test_a_process_of_uwsgi_has_threads_or_it_would_not_run(
    line: str, plain: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "command_lines", lambda processes: [line.split()])
    assert complaints([*host.server(plain)]) == []


def test_gunicorn_that_fits_is_named(
    plain: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-k gevent --timeout 1")
    finding = only([*host.server(plain)])
    assert finding.what == "gunicorn's settings fit (GUNICORN_CMD_ARGS)"


# History and metrics


def test_a_folder_that_this_user_may_not_write(
    plain: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "may not write to" in only([*monitoring.history(plain)]).what


def test_a_folder_that_can_t_be_looked_at(
    plain: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(monitoring, "existing", refuse)
    assert "Permission denied" in only([*monitoring.history(plain)]).what


def test_metrics_that_are_collected(
    plain: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert [*monitoring.metrics(plain)] == []
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(opentelemetry, "has_provider", lambda: True)
    found = case_of(Shop(METRICS=["prometheus", "opentelemetry"]))
    assert only([*monitoring.metrics(found)]).what == "prometheus, opentelemetry"


def test_a_provider_of_the_sdk_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider

    provider = MeterProvider()
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    assert opentelemetry.has_provider()
    provider.shutdown()


# Brokers that misbehave


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker may answer as late as on a busy machine."""
    monkeypatch.setattr(case, "PATIENCE", DEADLINE)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case, "PATIENCE", 0.3)


def asking(fake: FakeBroker, **settings: Any) -> Case:
    shop = Shop(TESTING_BROKER=True, BROKER_URL=fake.url, **settings)
    found = case_of(shop)
    (found.node,) = found.nodes
    return found


def test_a_broker_other_than_rabbitmq_is_not_asked_for_rights() -> None:
    with FakeBroker() as fake:
        found = asking(fake, EXCHANGES={"shop": {"type": "topic"}})
        assert complaints([*broker.rights(found)]) == []
        assert fake.messages == []


def test_what_is_refused_is_told_with_the_cure() -> None:
    def refuse(_: Any) -> Any:
        return spec.Channel.Close(403, "ACCESS_REFUSED - no", 40, 10)

    with FakeBroker() as fake:
        fake.on_declare = refuse
        found = asking(fake, QUEUES={"orders": {}})
        finding = only([*topology_checks.stands(found)])
    assert finding.level is Level.PROBLEM
    assert finding.what == "queue 'orders' was refused: ACCESS_REFUSED - no"
    assert finding.cure == (
        "grant the broker's user the permission, or set 'declare' to False in"
        " EVENTCOLLECTOR_QUEUES if others declare and bind the queue"
    )


def test_a_queue_of_others_need_not_be_bound_by_the_settings() -> None:
    others = {"theirs": {"declare": False}, "ours": {}}
    settings: dict[str, Any] = {"EXCHANGE": "amq.topic", "QUEUES": others}
    settings["QUEUES"]["other"] = {"bind": ["amq.topic:other"]}
    shop = Shop(BROKER_URL="memory://", **settings)
    finding = only([*targets.targets(case_of(shop))])
    assert finding.what.startswith("queue 'ours' is bound to nothing")


def test_a_queue_of_others_is_looked_for() -> None:
    def missing(_: Any) -> Any:
        return spec.Channel.Close(404, "NOT_FOUND - no", 50, 10)

    with FakeBroker() as fake:
        fake.on_declare = missing
        found = asking(fake, EXCHANGE="", QUEUES={"theirs": {"declare": False}})
        finding = only([*topology_checks.stands(found)])
    assert (finding.level, finding.what) == (Level.PROBLEM, "queue 'theirs' is missing")
    assert "leave out 'declare' in EVENTCOLLECTOR_QUEUES" in finding.cure


def test_a_connection_that_ends_in_between_is_no_traceback() -> None:
    from flask_eventcollector.doctor.examination import Check, examine

    def drop(_: Any) -> Any:
        raise ConnectionAbortedError

    with FakeBroker() as fake:
        fake.on_declare = drop
        found = asking(fake, QUEUES={"orders": {}})
        check = Check("topology", topology_checks.stands)
        finding = only(examine(found, [check], lambda _: None))
    assert "could not be examined to its end: " in finding.what


def test_a_port_without_an_answer(short: None) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = {"BROKER_URL": f"amqp://127.0.0.1:{port}/", "TESTING_BROKER": True}
        with open_shop(**settings) as shop:
            finding = only([*broker.nodes(case_of(shop))])
    assert f"amqp://127.0.0.1:{port}/: timed out" in finding.what


def test_an_address_has_no_credential() -> None:
    url = "amqps://user:secret@[::1]/crm"
    (node,) = case_of(Shop(BROKER_URL=url, TESTING_BROKER=True)).nodes
    assert address(node) == "amqps://[::1]:5671/crm"


# The outbox


def test_an_engine_of_asyncio_is_not_asked_for_savepoints() -> None:
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import create_async_engine

    from flask_eventcollector.stores.outbox.surroundings import commits_at_savepoint

    engine = create_async_engine("sqlite+aiosqlite:///shop.sqlite3")
    assert not commits_at_savepoint(engine.sync_engine)


def test_an_outbox_whose_engine_is_not_known() -> None:
    pytest.importorskip("sqlalchemy")
    from sqlalchemy import MetaData
    from sqlalchemy.orm import sessionmaker

    from flask_eventcollector import make_outbox_table
    from flask_eventcollector.doctor import outbox

    shop = Shop(BROKER_URL="memory://", TESTING_BROKER=True)
    table = make_outbox_table(MetaData())
    shop.events.bind_session(sessionmaker(), outbox=table)
    finding = only([*outbox.tables(case_of(shop))])
    assert finding.what.endswith("the bound session has no engine here")
    assert finding.cure.endswith("bind_session() an outbox_engine")


def shop_with_spool(folder: Path, **settings: Any) -> Shop:
    return Shop(
        BROKER_URL=HERE.addresses[0],
        TESTING_BROKER=True,
        BACKLOG="spool",
        SPOOL_DIR=str(folder),
        **settings,
    )


def test_without_a_broker_nobody_knows_whether_what_waits_reaches_a_queue(
    tmp_path: Path,
) -> None:
    examined = case_of(shop_with_spool(tmp_path / "spool"))
    assert complaints([*targets.targets(examined)]) == []
    leave(tmp_path / "spool", [1])
    finding = only([*targets.targets(examined)])
    assert (finding.level, finding.what) == (
        Level.WARNING,
        "not examined, since the broker can't be asked",
    )


def test_all_that_waits_is_counted(tmp_path: Path) -> None:
    topology = {
        "EXCHANGES": {"shop": {"type": "topic"}},
        "QUEUES": {"orders": {"bind": ["shop:orders.#"]}},
    }
    examined = case_of(shop_with_spool(tmp_path / "spool", **topology))
    leave(tmp_path / "spool", range(12_000), exchange="shop")
    unmatched, _ = complaints([*targets.targets(examined)])
    assert unmatched.what.startswith("12000 events wait for exchange 'shop'")


def test_what_an_ended_process_has_left_is_taken_over_by_a_running_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = case_of(shop_with_spool(tmp_path / "spool"))
    leave(tmp_path / "spool", [1])
    assert "1 event of ended processes waits" in only([*spool.left(examined)]).what
    monkeypatch.setattr(Case, "processes", lambda _: {os.getpid()})
    assert complaints([*spool.left(examined)]) == []
