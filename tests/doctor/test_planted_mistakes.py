"""``flask events doctor`` finds each planted mistake, and none in a sound set-up."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from tests.doctor.mistakes import MISTAKES, Mistake, sqlite, trusted, with_outbox
from tests.doctor.support import Patient, complaints

pytestmark = pytest.mark.rabbitmq


#: Needs a node of its own.
SLOW = {"a broker without memory"}
PLANTED = [
    pytest.param(it, id=it.name, marks=[pytest.mark.slow] * (it.name in SLOW))
    for it in MISTAKES
]


@pytest.mark.parametrize("mistake", PLANTED)
def test_it_is_found(mistake: Mistake, patient: Patient) -> None:
    mistake.plant(patient)
    patient.create()

    found = complaints(patient.examine())

    assert [it for it in found if mistake.is_named_by(it)], found
    assert [it for it in found if not mistake.explains(it)] == []
    assert "the-planted-password" not in str(found)


def test_there_are_enough_of_them() -> None:
    names = {mistake.name for mistake in MISTAKES}
    assert len(names) == len(MISTAKES) >= 25


def test_nothing_is_found_in_a_sound_set_up(patient: Patient) -> None:
    patient.create()
    assert complaints(patient.examine()) == []


def test_nor_with_tls(patient: Patient) -> None:
    patient.settings["BROKER_URL"] = trusted(patient)
    patient.create()
    assert complaints(patient.examine()) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_nor_with_an_outbox(kind: str, patient: Patient) -> None:
    is_file = kind == "sqlite"
    url = sqlite(patient) if is_file else patient.fixture(kind).new_database()
    with_outbox(patient, url)
    patient.create()
    assert complaints(patient.examine()) == []


def test_nor_behind_a_pooler_that_knows_no_prepared_statements(
    patient: Patient,
) -> None:
    options: dict[str, Any] = {"connect_args": {"prepare_threshold": None}}
    with_outbox(patient, patient.fixture("pgbouncer").new_database(), **options)
    patient.create()
    assert complaints(patient.examine()) == []
