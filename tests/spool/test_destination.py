"""The destination of a file's events: it is stored, and no other broker gets them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from flask_eventcollector.brokers.memory import MemoryBroker
from flask_eventcollector.config.broker_url import MEMORY, parse_broker_urls
from flask_eventcollector.stores.spool import adopter, strays
from flask_eventcollector.stores.spool.destination import Destination
from flask_eventcollector.stores.spool.folder import (
    Folder,
    claim_orphan,
    destination_of,
)
from flask_eventcollector.stores.spool.journal import (
    PAGE_SIZE,
    Journal,
    read_destination,
    was_begun,
)
from tests.helpers import DEADLINE, open_shop, thread, wait_until
from tests.parts import delivering
from tests.spool.support import APP, ELSEWHERE, HERE, leave, spooling

BOTH = Destination((*HERE.addresses, "amqp://rabbit2:5672/shop"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def folder(path: Path) -> Folder:
    return Folder(path, APP, HERE)


def destination(urls: str) -> Destination:
    return Destination.of(parse_broker_urls(urls, "BROKER_URL"))


# The value


def test_it_has_no_credentials_and_no_options() -> None:
    found = destination(
        "amqps://me:secret@Rabbit.example/shop%2F1?verify=verify_none;"
        "amqp://me:secret@[::1]:5673/shop%2F1"
    )
    assert found.addresses == (
        "amqps://rabbit.example:5671/shop%2F1",
        "amqp://[::1]:5673/shop%2F1",
    )


def test_the_memory_broker_has_one_of_its_own() -> None:
    assert Destination.of([MEMORY]).addresses == ("memory://",)
    assert Destination.of([MEMORY]).is_same(Destination.of([MEMORY]))
    assert not Destination.of([MEMORY]).is_same(HERE)


@pytest.mark.parametrize(
    "other",
    [
        "amqp://guest:guest@rabbit:5672/shop",
        "amqp://someone:else@rabbit/shop",
        "amqp://RABBIT/shop",
        "amqp://rabbit/shop?heartbeat=7",
        "amqps://rabbit/shop?verify=verify_none",
        "amqps://rabbit:15671/shop",
        "amqp://rabbit2/shop;amqp://rabbit/shop",
    ],
)
def test_it_stays_the_same_when_credentials_tls_or_further_nodes_change(
    other: str,
) -> None:
    assert HERE.is_same(destination(other))
    assert destination(other).is_same(HERE)


@pytest.mark.parametrize(
    "other",
    [
        "amqp://rabbit/billing",
        "amqp://rabbit/",
        "amqp://rabbit/SHOP",
        "amqp://rabbit2/shop",
        "amqp://rabbit:5673/shop",
        "amqp://rabbit2/shop;amqp://rabbit/billing",
        "memory://",
    ],
)
def test_another_broker_and_another_virtual_host_are_told_apart(other: str) -> None:
    assert not HERE.is_same(destination(other))
    assert not destination(other).is_same(HERE)


def test_the_digest_depends_on_the_addresses_alone() -> None:
    one = destination("amqp://a/v;amqp://b/v")
    assert one.digest == destination("amqp://me:secret@b/v;amqp://a/v").digest
    assert one.digest != destination("amqp://a/v").digest


def test_of_very_many_addresses_as_many_are_kept_as_fit() -> None:
    urls = ";".join(f"amqp://{number}.{'x' * 200}/{'y' * 200}" for number in range(50))
    addresses = destination(urls).addresses
    assert 3 < len(addresses) < 10
    assert len(destination(f"amqp://{'x' * 250}/{'%2F' * 255}").addresses) == 1


# Storage


@pytest.mark.parametrize(
    "written", [HERE, destination(f"amqp://{'x' * 250}/{'%2F' * 255}")]
)
def test_a_file_says_it_in_its_first_page(tmp_path: Path, written: Destination) -> None:
    path = tmp_path / "file"
    Journal.create(path, str(written)).close()
    assert read_destination(path) == str(written)
    assert destination_of(path) == written
    assert was_begun(path)


def test_a_file_of_version_1_does_not_say_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Journal.create(path).close()
    assert was_begun(path)
    assert read_destination(path) == ""
    assert destination_of(path) is None


def test_a_flipped_bit_makes_no_other_destination_of_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Journal.create(path, str(HERE)).close()
    content = path.read_bytes()
    place = content.index(b"amqp://rabbit")
    for offset in range(len(str(HERE))):
        changed = bytearray(content)
        changed[place + offset] ^= 1
        path.write_bytes(changed)
        assert read_destination(path) == ""


def test_a_process_writes_it_into_its_file(path: Path) -> None:
    settings = {"BROKER_URL": "memory://", "SPOOL_DIR": str(path)}
    with open_shop(BACKLOG="spool", TESTING_BROKER=True, **settings) as shop:
        shop.faults.go_down()
        with shop.events.auto_publish():
            shop.enqueue(1)
        [file] = path.glob("*.spool")
        assert "memory://" in file.read_bytes().decode("latin-1")
        assert file.name.startswith(f"shop@{Destination.of([MEMORY]).digest}@")


# Ownership


def test_a_file_for_another_virtual_host_is_another_s(
    folder: Folder, path: Path
) -> None:
    own = leave(path, "a", destination=HERE)
    other = leave(path, "b", destination=ELSEWHERE)
    assert folder.files() == [own]
    assert folder.other_files() == [other]
    assert [claim.path for claim in folder.claim_orphans()] == [own]


def test_a_file_from_before_a_node_was_added_is_the_app_s(path: Path) -> None:
    file = leave(path, "a", destination=HERE)
    grown = Folder(path, APP, BOTH)
    assert grown.files() == [file]
    # Even while this process has locked it.
    claim = claim_orphan(file)
    assert claim is not None
    assert grown.files() == [file]
    claim.release()


def test_a_file_of_version_1_belongs_to_whom_its_name_says(
    folder: Folder, path: Path
) -> None:
    file = leave(path, "a", destination=None)
    assert folder.files() == [file]
    assert Folder(path, APP, ELSEWHERE).files() == [file]
    assert Folder(path, "stock", HERE).files() == []


def test_with_a_damaged_first_page_its_name_tells(folder: Folder, path: Path) -> None:
    own = leave(path, "a", destination=HERE)
    other = leave(path, "b", destination=ELSEWHERE)
    for file in (own, other):
        content = file.read_bytes()
        file.write_bytes(b"?" * PAGE_SIZE + content[PAGE_SIZE:])
    assert folder.files() == [own]
    assert folder.other_files() == [other]


def test_an_empty_file_belongs_to_whom_its_name_says(
    folder: Folder, path: Path
) -> None:
    own = leave(path, "", destination=HERE)
    other = leave(path, "", destination=ELSEWHERE)
    for file in (own, other):
        file.write_bytes(b"")
    assert folder.files() == [own]
    assert folder.other_files() == [other]


def test_what_is_no_file_is_not_opened(folder: Folder, path: Path) -> None:
    folder.make()
    os.mkfifo(path / f"{APP}@{HERE.digest}@1@pipe.spool")
    assert len(folder.files()) == 1  # To open it for reading would block.


def test_a_file_that_was_just_removed_says_nothing(path: Path) -> None:
    assert destination_of(path / "gone.spool") is None


def test_only_so_many_are_remembered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "flask_eventcollector.stores.spool.folder"
    monkeypatch.setattr(f"{module}._MOST_DESTINATIONS", 2)
    known: dict[str, Destination] = {}
    monkeypatch.setattr(f"{module}._destinations", known)
    for _ in range(5):
        assert destination_of(leave(path, "a")) == HERE
    assert 0 < len(known) <= 2


# Processes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan continuously, and report unadopted files at once."""
    monkeypatch.setattr(adopter, "SCAN_INTERVAL", 0.0)
    monkeypatch.setattr(adopter, "TICK", 0.05)
    monkeypatch.setattr(strays, "PATIENCE", 0.1)


def test_another_broker_s_events_are_never_sent_but_counted_and_named(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(path, ["own"], destination=HERE)
    other = leave(path, ["other"], destination=ELSEWHERE)
    before = other.read_bytes()
    broker = MemoryBroker()
    with (
        caplog.at_level(logging.WARNING, "flask_eventcollector"),
        delivering(broker, backlog=spooling(path), durable=True) as delivery,
    ):
        delivery.start()
        wait_until(lambda: delivery.stats().strays == 1, "it is counted")
        wait_until(lambda: "Spool problem: " in caplog.text, "it is logged")
        assert delivery.flush(DEADLINE)
        assert [event.payload for event in broker.events("q")] == ["own"]
        error = delivery.stats().spool_error
        assert delivery.stats().stray_events == 1
    assert f"{other.name} (1 event for amqp://rabbit:5672/billing)" in error
    assert "flask events adopt" in error
    assert other.read_bytes() == before


def test_a_file_that_its_own_app_takes_is_not_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays, "PATIENCE", DEADLINE)
    other = leave(path, ["other"], destination=ELSEWHERE)
    with delivering(MemoryBroker(), backlog=spooling(path), durable=True) as delivery:
        delivery.start()
        assert delivery.flush(DEADLINE)
        assert delivery.flush(DEADLINE)
        assert delivery.stats().strays == 0
        assert delivery.stats().spool_error == ""
    assert other.exists()


def test_a_file_in_use_is_not_named(path: Path) -> None:
    claim = claim_orphan(leave(path, ["other"], destination=ELSEWHERE))
    assert claim is not None
    with delivering(MemoryBroker(), backlog=spooling(path), durable=True) as delivery:
        delivery.start()
        for _ in range(3):
            assert delivery.flush(DEADLINE)
        assert delivery.stats().strays == 0
        claim.release()
        wait_until(lambda: delivery.stats().strays == 1, "its process has ended")


def test_of_many_files_only_some_are_named(path: Path) -> None:
    for number in range(5):
        leave(path, [number], destination=ELSEWHERE)
    found = strays.Strays(Folder(path, APP, HERE))

    def all_count() -> bool:
        found.scan()
        return len(found.files) == 5

    wait_until(all_count, "they count")
    [problem] = found.problems
    assert problem.text.count("amqp://rabbit:5672/billing") == 3
    assert "2 more" in problem.text


def test_a_damaged_file_of_another_broker_is_named_as_well(path: Path) -> None:
    other = leave(path, "b", destination=ELSEWHERE)
    other.write_bytes(b"?" * PAGE_SIZE + other.read_bytes()[PAGE_SIZE:])
    found = strays.Strays(Folder(path, APP, HERE))

    def counts() -> bool:
        found.scan()
        return bool(found.files)

    wait_until(counts, "it counts")
    [problem] = found.problems
    assert f"{other.name} (for an unknown broker)" in problem.text


def test_what_an_app_left_before_it_was_renamed_is_counted_and_named_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = [leave(path, [name], app="old shop") for name in "ab"]
    running = claim_orphan(leave(path, ["c"], app="stock"))
    assert running is not None
    broker = MemoryBroker()
    with (
        caplog.at_level(logging.WARNING, "flask_eventcollector"),
        delivering(broker, backlog=spooling(path), durable=True) as delivery,
    ):
        delivery.start()
        wait_until(lambda: delivery.stats().strays == 2, "they are counted")
        assert delivery.stats().stray_events == 2
        wait_until(lambda: "Spool problem: " in caplog.text, "they are logged")
        error = delivery.stats().spool_error
        running.release()
        wait_until(
            lambda: "'stock' (1 event in 1 file)" in caplog.text, "a new one is logged"
        )
    assert error == (
        "apps that have no process here have left events: 'old shop' (2 events in 2"
        " files); if this app was renamed, run 'flask events adopt --from 'old shop'',"
        " or set EVENTCOLLECTOR_SPOOL_NAME to its former name"
    )
    assert caplog.text.count(f"Spool problem: {error}") == 1
    assert broker.events("q") == ()
    assert all(file.exists() for file in left)


def test_a_file_without_events_is_no_stray(path: Path) -> None:
    empty = [leave(path, "", destination=ELSEWHERE), leave(path, "", app="old shop")]
    leave(path, "a", app="old shop")
    found = strays.Strays(Folder(path, APP, HERE))

    def counts() -> bool:
        found.scan()
        return bool(found.files)

    wait_until(counts, "the other one counts")
    assert (len(found.files), found.events) == (1, 1)
    assert not set(empty) & set(found.files)


def test_two_services_beside_each_other_each_get_their_own(path: Path) -> None:
    for number in range(20):
        leave(path, [["here", number]], destination=HERE)
        leave(path, [["elsewhere", number]], destination=ELSEWHERE)
    brokers = {HERE: MemoryBroker(), ELSEWHERE: MemoryBroker()}

    def serve(where: Destination) -> None:
        backlog = spooling(path, destination=where)
        with delivering(brokers[where], backlog=backlog, durable=True) as delivery:
            delivery.start()
            wait_until(lambda: delivery.stats().confirmed == 20, "all are sent")

    with thread(lambda: serve(ELSEWHERE)):
        serve(HERE)

    for where, word in ((HERE, "here"), (ELSEWHERE, "elsewhere")):
        sent = [event.payload for event in brokers[where].events("q")]
        assert sorted(sent) == [[word, number] for number in range(20)]
