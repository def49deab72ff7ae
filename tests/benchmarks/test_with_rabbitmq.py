"""The smallest form with RabbitMQ: every event must arrive."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import backlog, enqueue_cost, outage_cost, serving, throughput
from benchmarks.retaining import DRAIN, MEMORY, UNIT_OF_WORK
from benchmarks.rig import check_arrived
from benchmarks.views import FLOOR, NO_EVENTS, OURS
from tests.rabbitmq import RabbitMQNode

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "contestant"),
    [
        ("quorum", throughput.OURS),
        ("classic", throughput.LIMIT),
        ("classic", throughput.BARE),
    ],
)
def test_throughput_is_measured(
    rabbitmq: RabbitMQNode, kind: str, contestant: str
) -> None:
    [job] = [
        job
        for job in throughput.jobs_for(kind, 80, [(20, 2)])
        if job.contestants == (contestant,)
    ]

    assert job.run(rabbitmq)[contestant][throughput.UNIT] > 0


def test_a_missing_event_is_noticed(rabbitmq: RabbitMQNode, queue_name: str) -> None:
    rabbitmq.declare(queue_name)
    rabbitmq.publish(queue_name, b"1")

    with pytest.raises(RuntimeError, match="2 events"):
        check_arrived(rabbitmq, queue_name, 2, patience=0.1)


def test_an_event_too_many_is_noticed(rabbitmq: RabbitMQNode, queue_name: str) -> None:
    rabbitmq.declare(queue_name)
    rabbitmq.publish(queue_name, b"1", b"2")

    with pytest.raises(RuntimeError, match="2 messages"):
        check_arrived(rabbitmq, queue_name, 1)


def test_enqueueing_is_measured(rabbitmq: RabbitMQNode) -> None:
    job = enqueue_cost.jobs(True)[1]

    assert job.run(rabbitmq)[enqueue_cost.OURS][enqueue_cost.UNIT] > 0


def test_what_is_retained_is_delivered(private_rabbitmq: RabbitMQNode) -> None:
    figures = backlog.keep_and_drain("memory", 1000, private_rabbitmq)

    assert set(figures) == {UNIT_OF_WORK, MEMORY, DRAIN}


@pytest.fixture
def hey() -> None:
    if shutil.which("hey") is None:
        pytest.skip("hey is not installed")


@pytest.mark.usefixtures("hey")
def test_views_are_measured_in_turns(rabbitmq: RabbitMQNode) -> None:
    views = (NO_EVENTS, FLOOR)

    measured = serving.costs_in_turns(
        views, serving.GTHREAD, 2, serving.Turns(2, 0.2), rabbitmq
    )

    assert [set(measured[view]) for view in views] == [set(serving.UNITS)] * 2


@pytest.mark.usefixtures("hey")
def test_a_view_is_measured_while_the_broker_is_down(
    private_rabbitmq: RabbitMQNode,
) -> None:
    trouble = outage_cost.down(private_rabbitmq)

    figures = serving.cost_of(
        OURS, serving.GTHREAD, 2, 0.2, private_rabbitmq, fault=trouble
    )

    assert figures[serving.P99] > 0
