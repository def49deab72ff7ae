"""Files that earlier versions of the library have written are delivered."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.events import NO_PROPERTIES
from flask_eventcollector.messages.amqp_fields import POSSIBLE_DUPLICATE
from flask_eventcollector.stores.spool.admin.adopting import adopt
from flask_eventcollector.stores.spool.folder import Folder
from tests.helpers import DEADLINE, wait_until
from tests.parts import delivering
from tests.spool.support import APP, HERE, spooling

FILES = Path(__file__).with_name("files")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def leave(folder: Path, version: int) -> Path:
    """Leave the file of *version* as a killed process has."""
    spool = Folder(folder, APP, HERE)
    spool.make()
    claim = spool.claim_new()
    shutil.copyfile(FILES / f"version-{version}.spool", claim.path)
    claim.release()
    return claim.path


def test_the_events_of_version_2_are_delivered(folder: Path) -> None:
    path = leave(folder, 2)
    broker = MemoryBroker()
    spool = spooling(folder)
    with delivering(broker, backlog=spool, durable=True) as delivery:
        delivery.start()
        wait_until(lambda: delivery.stats().confirmed == 4, "it is delivered")
        (dead,) = delivery.dead()
        assert dead.reason == "no queue for 'orders.created': NO_ROUTE"
        delivery.retry(None)
        assert delivery.flush(DEADLINE)
        wait_until(lambda: not path.exists(), "its file is gone")
        assert delivery.stats().quarantined == 0

    events = broker.events("orders.created")
    payloads = [event.payload for event in events]
    assert payloads[:2] == [{"order_id": 1}, {"order_id": 2}]
    assert payloads[2:] == [{"note": "x" * 9000}, {"order_id": 4}]
    assert events[1].headers == {
        "tenant": "acme",
        "raw": b"\xff\x00",
        "tags": [1, {"a": None}],
        POSSIBLE_DUPLICATE: True,
    }
    (changed,) = broker.events("orders.changed")
    assert changed.exchange == "shop"
    assert {event.properties for event in events} == {NO_PROPERTIES}


def test_a_file_of_version_2_can_be_moved(folder: Path) -> None:
    path = leave(folder, 2)
    adopted = adopt(path, Folder(folder, APP, HERE))
    assert (adopted.events, adopted.quarantined) == (5, None)
