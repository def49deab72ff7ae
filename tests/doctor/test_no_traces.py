"""An examination changes nothing, and needs no more rights than the app."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from flask_eventcollector.doctor import broker
from flask_eventcollector.doctor.findings import Level
from tests.doctor.mistakes import destination, sqlite, with_outbox, with_rights
from tests.doctor.support import Patient, complaints
from tests.rabbitmq import RabbitMQNode
from tests.spool.support import leave

pytestmark = pytest.mark.rabbitmq


def everything(node: RabbitMQNode, name: str) -> str:
    """The node's exchanges, queues and bindings whose names have *name*."""
    return node.eval(
        "F = fun(L) -> lists:sort([X || X <- L, string:find("
        f'io_lib:format("~p", [X]), "{name}") =/= nomatch]) end,'
        '{F(rabbit_exchange:list_names()), F(rabbit_amqqueue:list_names(<<"/">>)),'
        ' F(rabbit_binding:list(<<"/">>))}.'
    )


#: What whoever reads a spool file leaves beside it.
OF_READERS = (".lock", "-shm", "-wal")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(OF_READERS)
    }


def test_nothing_is_changed(patient: Patient) -> None:
    suffix = patient.queue[-32:]
    with patient.node.channel() as channel:
        channel.queue_bind(patient.queue, patient.exchange, "#")
    patient.settings["QUEUES"][f"missing-{suffix}"] = {"type": "quorum"}
    patient.settings["EXCHANGES"][f"missing-{suffix}"] = {"type": "fanout"}
    leave(patient.spool, [1], patient.queue, destination=destination(patient))
    with_outbox(patient, sqlite(patient))
    patient.create()
    before = everything(patient.node, suffix), contents(patient.folder)

    found = complaints(patient.examine())

    assert (everything(patient.node, suffix), contents(patient.folder)) == before
    assert patient.node.count(patient.queue) == 0
    assert [finding.about for finding in found] == [
        "topology",
        "topology",
        "targets",
        "spool",
    ]


def test_no_more_rights_are_needed_than_the_app_has(patient: Patient) -> None:
    own = f"^({patient.exchange}|{patient.queue})$"
    with_rights(patient, own, own, own)
    patient.create()

    found = patient.examine()

    assert complaints(found) == []
    assert [f for f in found if "an answer takes" in f.what]


def test_rights_by_routing_key_are_not_known(patient: Patient) -> None:
    with_rights(patient, ".*", ".*", ".*")
    user = patient.settings["BROKER_URL"].partition("//")[2].partition(":")[0]
    patient.node.eval(
        f'rabbit_auth_backend_internal:set_topic_permissions(<<"{user}">>, <<"/">>,'
        f' <<"{patient.exchange}">>, <<"^orders">>, <<"^orders">>, <<"test">>).'
    )
    patient.create()
    assert complaints(patient.examine()) == []


def test_a_slow_broker_is_told(patient: Patient) -> None:
    patient.patch.setattr(broker, "_SLOW", 0.0)
    patient.create()
    (slow,) = complaints(patient.examine())
    assert (slow.level, slow.about) == (Level.WARNING, "broker")
    assert "a message to a queue and back takes" in slow.what


def test_of_several_nodes_each_is_examined_and_the_first_that_answers_is_asked(
    patient: Patient,
) -> None:
    url = patient.settings["BROKER_URL"]
    patient.settings["BROKER_URL"] = f"amqp://127.0.0.1:1/;{url}"
    patient.create()
    found = patient.examine()
    (down,) = complaints(found)
    assert down.about == "broker"
    assert "amqp://127.0.0.1:1/: " in down.what
    assert [f for f in found if f.about == "broker" and "logged in" in f.what]
