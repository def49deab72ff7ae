"""Each contestant publishes every event; a broker with just enough AMQP counts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from benchmarks import contestants as publishers
from benchmarks import start_up, throughput
from benchmarks.first_event import FIRST
from benchmarks.results import Unavailable
from tests.isolation.fake_broker import FakeBroker

CONTESTANTS = throughput.IN_SHAPES | throughput.CONFIRMING_EACH
EVENTS = 60


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as broker:
        yield broker


def arrived(broker: FakeBroker) -> int:
    return sum(message.queue == "orders" for message in broker.messages)


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_contestant_publishes_from_threads(broker: FakeBroker, name: str) -> None:
    run = CONTESTANTS[name]

    throughput.publish_in_threads(run, broker.url, "orders", EVENTS, 7, 2)

    assert arrived(broker) == EVENTS


@pytest.mark.parametrize("name", throughput.STREAMS)
def test_a_contestant_pipelines(broker: FakeBroker, name: str) -> None:
    run, _ = throughput.STREAMS[name]
    if name == throughput.NODE and not _has_node_modules():
        pytest.skip(f"{name} is installed by the first run of the benchmarks")

    try:
        assert run(broker.url, "orders", EVENTS) > 0
    except Unavailable as error:
        pytest.skip(str(error))

    assert arrived(broker) == EVENTS


def _has_node_modules() -> bool:
    return bool(shutil.which("node")) and publishers.cached_modules().exists()


@pytest.mark.parametrize("name", FIRST)
def test_a_first_event_is_published(broker: FakeBroker, name: str) -> None:
    close = FIRST[name](broker.url, "orders")

    assert arrived(broker) == 1
    close()


@pytest.mark.parametrize("name", start_up.IMPORTS)
def test_what_is_imported_is_there(name: str) -> None:
    exec(start_up.IMPORTS[name], {})


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(Unavailable, match="node is not installed"):
        publishers.amqp_connection_manager("amqp://", "orders", 1)
