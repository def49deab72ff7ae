"""The examples of docs/jobs.md, and the page's statements about them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest

from flask_eventcollector.testing import FaultInjector
from tests.docs.modules import imported, write
from tests.docs.reader import find, find_one, runs
from tests.helpers import books, open_shop

JOBS, TASKS, SCRIPT, CONSUMER, PARALLEL = find(page="docs/jobs.md", language="python")
LEFT = find_one(page="docs/jobs.md", language="text")


def impatient(events: Any) -> None:
    """Let each publish() wait for a moment only, however long it was told to wait."""
    publish = events.publish
    events.publish = lambda timeout: publish(timeout / 1000)


@runs(JOBS)
def test_a_job_and_a_command_are_blocks() -> None:
    with imported(JOBS) as (jobs,):
        jobs.count("A1")
        assert books(jobs.events) == {"confirmed": 1}

        result = jobs.app.test_cli_runner().invoke(args=["count"])

        assert result.exit_code == 0
        assert books(jobs.events) == {"confirmed": 3}


@runs(TASKS)
@pytest.mark.parametrize("fails", [False, True])
def test_a_task_of_celery_is_a_block(fails: bool) -> None:
    pytest.importorskip("celery")
    with imported(JOBS, TASKS) as (jobs, tasks):

        def run(_: object) -> None:
            jobs.events.enqueue_event({}, "stock.counted")
            assert not fails

        task = type("Count", (tasks.FlaskTask,), {"run": run})()
        with pytest.raises(AssertionError) if fails else nullcontext():
            task()

        assert books(jobs.events) == {"discarded" if fails else "confirmed": 1}


@runs(SCRIPT)
@pytest.mark.parametrize(("is_down", "code"), [(False, 0), (True, 1)])
def test_a_script_exits_with_0_if_its_events_are_confirmed(
    is_down: bool, code: int
) -> None:
    with imported(JOBS) as (jobs,):
        impatient(jobs.events)
        if is_down:
            FaultInjector.of(jobs.events.broker).go_down()
        with pytest.raises(SystemExit) as exit, imported(SCRIPT):
            pass

        assert exit.value.code == code


@runs(CONSUMER)
def test_a_message_is_acknowledged_when_its_event_is_confirmed() -> None:
    with imported(JOBS, CONSUMER) as (jobs, consumer):
        # The timeout is for outages, which a test does not have.
        publish = jobs.events.publish
        jobs.events.publish = lambda timeout: publish(timeout / 1000)
        channel, method = Mock(), Mock(delivery_tag=1)
        FaultInjector.of(jobs.events.broker).go_down()
        consumer.on_message(channel, method, None, b'{"order_id": 7}')
        assert channel.mock_calls == [call.basic_nack(1)]
        assert books(jobs.events) == {"dropped": 1}

        FaultInjector.of(jobs.events.broker).come_up()
        consumer.on_message(channel, method, None, b'{"order_id": 7}')

        assert channel.mock_calls[1:] == [call.basic_ack(1)]
        assert books(jobs.events) == {"dropped": 1, "confirmed": 1}


@runs(PARALLEL)
def test_children_publish_by_themselves(tmp_path: Path) -> None:
    write(tmp_path, JOBS, PARALLEL)

    command = [sys.executable, PARALLEL.file]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)


@runs(LEFT)
def test_the_log_reports_what_a_context_has_left_unpublished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_shop() as shop:

        def job() -> None:
            with shop.app_context():
                shop.enqueue(1, queue="orders.created")
                raise ValueError("of the job")

        with pytest.raises(ValueError, match="of the job"):
            job()

        assert caplog.messages[-1].startswith(LEFT.code.rstrip(" …\n"))
        shop.events.clear_events_to_publish()
