"""``flask events`` as a user calls it: in separate processes, with RabbitMQ."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from flask_eventcollector.stores.spool.admin.changes import PATIENCE
from flask_eventcollector.stores.spool.journal import PAGE_SIZE
from tests.cli.support import DEADLINE, FlaskEvents
from tests.helpers import freeze, wait_until
from tests.rabbitmq import Message, RabbitMQNode, free_ports
from tests.spool import support

#: Without a destination, so that it fits every broker.
leave = partial(support.leave, destination=None)

MakeQueue = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def flask_events(folder: Path, rabbitmq: RabbitMQNode) -> FlaskEvents:
    return FlaskEvents(folder, rabbitmq.url)


@pytest.fixture
def away(folder: Path) -> FlaskEvents:
    """With an unreachable broker."""
    return FlaskEvents(folder, f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/")


def sent(rabbitmq: RabbitMQNode, queue: str) -> list[int]:
    """The messages in the queue, in order; each is marked as a possible duplicate."""
    messages = rabbitmq.get_all(queue)
    for message in messages:
        assert message.properties.headers == {"x-possible-duplicate": True}
        assert message.id == str(message.json())
    return [message.json() for message in messages]


def damage(path: Path) -> None:
    """Overwrite a page with rows. See https://www.sqlite.org/fileformat2.html"""
    content = path.read_bytes()
    places = range(0, len(content), PAGE_SIZE)
    leaves = [place for place in places if content[place] == 0x0D]
    with path.open("r+b") as file:
        file.seek(leaves[len(leaves) // 2])
        file.write(b"?" * PAGE_SIZE)


# Delivering


@pytest.mark.slow
def test_flush_delivers_each_event_once_when_the_broker_is_back(
    flask_events: FlaskEvents,
    away: FlaskEvents,
    rabbitmq: RabbitMQNode,
    make_queue: MakeQueue,
    folder: Path,
) -> None:
    queue = make_queue()
    leave(folder, range(3000), queue=queue)

    result = away("flush", "--timeout", "1")

    assert result.returncode == 3
    assert "0 events delivered, 3000 waiting." in result.stdout
    assert "Not delivered: " in result.stderr
    assert "Connection refused" in result.stderr
    assert flask_events.json("status")["total"]["waiting"] == 3000

    result = flask_events("flush")

    assert (result.returncode, result.stdout) == (0, "3 000 events delivered.\n")
    assert sent(rabbitmq, queue) == list(range(3000))
    assert list(folder.iterdir()) == []


def test_flush_delivers_more_files_than_are_open_at_a_time(
    flask_events: FlaskEvents,
    rabbitmq: RabbitMQNode,
    make_queue: MakeQueue,
    folder: Path,
) -> None:
    queue = make_queue()
    for number in range(40):
        leave(folder, [number], queue=queue)

    result = flask_events("flush")

    assert (result.returncode, result.stdout) == (0, "40 events delivered.\n")
    assert sorted(sent(rabbitmq, queue)) == list(range(40))


def test_flush_delivers_the_intact_rows_of_a_damaged_file_and_quarantines_it(
    flask_events: FlaskEvents,
    rabbitmq: RabbitMQNode,
    make_queue: MakeQueue,
    folder: Path,
) -> None:
    queue = make_queue()
    path = leave(folder, range(500), queue=queue)
    damage(path)

    status = flask_events("status")
    assert status.returncode == 3
    assert f"Can't read {path.name}: it is damaged" in status.stderr

    flush = flask_events("flush")

    assert flush.returncode == 3
    assert "1 damaged file quarantined" in flush.stdout
    assert "were copied or delivered before" in flush.stdout
    rescued = sent(rabbitmq, queue)
    assert len(set(rescued)) == len(rescued)
    assert 300 < len(rescued) < 500
    status = flask_events("status")
    assert status.returncode == 3
    assert f"Can't read {path.name}.quarantined: quarantined" in status.stderr


# Two commands at once


def test_two_flushes_at_once_deliver_each_event_once(
    flask_events: FlaskEvents,
    rabbitmq: RabbitMQNode,
    make_queue: MakeQueue,
    folder: Path,
) -> None:
    queue = make_queue()
    for first in range(0, 2000, 250):
        leave(folder, range(first, first + 250), queue=queue)

    with flask_events.started("flush") as one, flask_events.started("flush") as other:
        outputs = [p.communicate(timeout=3 * DEADLINE)[0] for p in (one, other)]

    assert (one.returncode, other.returncode) == (0, 0)
    delivered = [re.match(r"([\d ]+) events? delivered", o) for o in outputs]
    assert sum(int(d[1].replace(" ", "")) for d in delivered if d) == 2000
    assert sorted(sent(rabbitmq, queue)) == list(range(2000))


@pytest.mark.slow
def test_a_purge_beside_a_flush_leaves_each_event_with_one_of_them(
    flask_events: FlaskEvents,
    rabbitmq: RabbitMQNode,
    make_queue: MakeQueue,
    folder: Path,
) -> None:
    queue = make_queue()
    leave(folder, range(1000), queue=queue)
    leave(folder, ["a", "b"], queue="nobody-has-this-queue")

    with flask_events.started("flush", "--timeout", "20") as flush:
        purge = flask_events("purge", "a", "b", "--yes")
        output, errors = flush.communicate(timeout=3 * DEADLINE)

    assert purge.returncode == 0, purge.stderr
    assert "Dropped 2 events of" in purge.stdout
    assert "1 000 events delivered" in output, errors
    assert sent(rabbitmq, queue) == list(range(1000))
    assert list(folder.iterdir()) == []


def test_status_beside_a_flush_finds_nothing_to_complain_about(
    flask_events: FlaskEvents, make_queue: MakeQueue, folder: Path
) -> None:
    queue = make_queue()
    for first in range(0, 4000, 200):
        leave(folder, range(first, first + 200), queue=queue)

    with flask_events.started("flush") as flush:
        seen = [flask_events("status")]
        while flush.poll() is None:
            seen.append(flask_events("status"))

    assert {status.stderr for status in seen} == {""}
    assert {status.returncode for status in seen} <= {0, 3}
    assert flask_events("status").returncode == 0


# A terminal


def on_a_terminal(flask_events: FlaskEvents, *args: str) -> str:
    """The whole output of a command on a terminal."""
    ours, theirs = pty.openpty()
    with flask_events.started(*args, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b"".join(chunks(ours))
        process.wait(3 * DEADLINE)
    os.close(ours)
    return text.decode()


def chunks(terminal: int) -> Iterable[bytes]:
    deadline = time.monotonic() + 3 * DEADLINE
    # Linux reports by an error that the other side is closed.
    with suppress(OSError):
        while select.select([terminal], [], [], deadline - time.monotonic())[0]:
            if not (chunk := os.read(terminal, 4096)):
                return
            yield chunk


def test_a_terminal_shows_how_far_a_flush_is(
    flask_events: FlaskEvents, make_queue: MakeQueue, folder: Path
) -> None:
    leave(folder, range(5000), queue=make_queue())

    shown = on_a_terminal(flask_events, "flush")

    bars = re.findall(r"Delivering  \[.*?\] +(\d+)/5000", shown)
    assert bars[0] == "0"
    assert bars[-1] == "5000"
    assert len(set(bars)) > 2
    assert "5 000 events delivered." in shown


def test_without_a_terminal_there_is_no_bar(
    flask_events: FlaskEvents, make_queue: MakeQueue, folder: Path
) -> None:
    leave(folder, range(10), queue=make_queue())
    result = flask_events("flush")
    assert (result.stdout, result.stderr) == ("10 events delivered.\n", "")


def test_a_reader_that_has_seen_enough_is_no_trouble(
    away: FlaskEvents, folder: Path
) -> None:
    leave(folder, range(5000))
    with away.started("list", "--limit", "0") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ID")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


# Another user


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_what_is_wrong_in_one_line(
    away: FlaskEvents, folder: Path
) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)

    result = away("status")

    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: EVENTCOLLECTOR_SPOOL_DIR is ")
    assert "belongs to the user with id 12345" in line
    assert "run this as that user" in line


# A process that hangs

WORKER = """
import signal
from flask_eventcollector import events_published
from tests.cli.shop_app import app, events

with app.app_context():
    with events.auto_publish():
        dead = events.enqueue_event(1, "nobody-has-this-queue")
    events.flush(20)
    while events.stats().dead != 1 or events.stats().unerased:
        pass
    print(dead.id, flush=True)
    while input():
        print(events.stats().dead, events.stats().dropped, flush=True)
"""


@pytest.mark.slow
def test_a_process_that_hangs_is_not_waited_for_and_does_nothing_later(
    flask_events: FlaskEvents, folder: Path
) -> None:
    flask_events.environment["FLASK_EVENTCOLLECTOR_DEAD_AFTER"] = "0"
    with flask_events.python(WORKER) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        dead = worker.stdout.readline().strip()
        freeze(worker.pid)

        status = flask_events.json("status")
        assert [file["alive"] for file in status["files"]] == [True]
        assert dead in flask_events("list").stdout
        began = time.monotonic()
        with (
            flask_events.started("retry", dead) as retry,
            flask_events.started("purge", dead, "--yes") as purge,
        ):
            errors = [p.communicate(timeout=3 * DEADLINE)[1] for p in (retry, purge)]
        assert time.monotonic() - began >= PATIENCE
        assert (retry.returncode, purge.returncode) == (3, 3)
        for error in errors:
            assert f"no response from process {worker.pid} within 5 s" in error
            assert dead in error
        assert not list(folder.glob("*.request"))

        worker.send_signal(signal.SIGCONT)
        time.sleep(2)
        print("go", file=worker.stdin, flush=True)
        assert worker.stdout.readline() == "1 0\n"


def test_a_running_process_sends_what_is_redirected(
    flask_events: FlaskEvents, rabbitmq: RabbitMQNode, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    flask_events.environment["FLASK_EVENTCOLLECTOR_DEAD_AFTER"] = "0"
    with flask_events.python(WORKER) as worker:
        assert worker.stdout is not None
        dead = worker.stdout.readline().strip()

        result = flask_events("retry", dead, "--to", queue)

        assert result.returncode == 0, result.stderr
        assert f"Redirected 1 event through process {worker.pid}." in result.stdout
        found: list[Message] = []

        def is_sent() -> bool:
            found.extend(rabbitmq.get_all(queue))
            return bool(found)

        wait_until(is_sent, "it is sent")
    [message] = found
    assert (message.id, message.json()) == (dead, 1)


def test_a_wrong_setting_is_reported_in_one_line(away: FlaskEvents) -> None:
    away.environment["FLASK_EVENTCOLLECTOR_MAX_EVENTS"] = "many"
    result = away("status")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: EVENTCOLLECTOR_MAX_EVENTS is 'many': ")
    assert len(result.stderr.splitlines()) == 1
