"""A script whose first call concerns events of killed processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import load, scripts
from tests.rabbitmq import RabbitMQNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]


@pytest.mark.parametrize("call", ["flush", "close"])
def test_it_delivers_what_two_killed_processes_have_left(
    rabbitmq: RabbitMQNode, tmp_path: Path, call: str
) -> None:
    queue, place = load.fresh_queue(), (rabbitmq.url, tmp_path / "spool")
    for label in ("1", "2"):
        ended = scripts.run(scripts.KILLED, *place, queue, label)
        assert ended.returncode == -9, ended.stderr

    script = scripts.run(f"print(events.{call}(10))", *place, queue)

    assert script.stdout == "True\n", script.stderr
    messages = [message.json() for message in rabbitmq.get_all(queue)]
    assert sorted(messages) == scripts.left_by("1") + scripts.left_by("2")
    rabbitmq.delete(queue)
