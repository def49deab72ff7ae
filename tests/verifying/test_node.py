"""A private node that does not start says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_eventcollector.verifying.node import NodeFailed, PrivateNode, private_node


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A server that ends at once."""
    server = tmp_path / "rabbitmq-server"
    server.write_text("#!/bin/sh\necho out of luck\n")
    server.chmod(0o755)
    return tmp_path


def test_one_that_ends_is_not_waited_for(programs: Path) -> None:
    with (
        pytest.raises(NodeFailed, match="did not start: out of luck"),
        private_node(programs),
    ):
        pass


def test_without_a_log_there_are_no_last_words(tmp_path: Path) -> None:
    node = PrivateNode(tmp_path, tmp_path)

    assert node.last_words == ""
    assert not node.is_running
    node.kill()
