"""Which relay is the active one."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, event, update

from flask_eventcollector.stores.outbox.table import leader_table
from tests.outbox.support import Place


def end_lease(place: Place) -> None:
    with place.engine.begin() as connection:
        connection.execute(update(leader_table(place.table)).values(until=1))


def test_one_process_leads(place: Place) -> None:
    first, second = place.leadership("1"), place.leadership("2")
    assert place.leader() is None
    assert first.lead()
    assert not second.lead()
    assert first.lead()
    assert place.leader() == "process 1"


def test_each_app_has_its_leader(place: Place) -> None:
    assert place.leadership("1", app="shop").lead()
    assert place.leadership("2", app="billing").lead()


def test_a_standby_takes_over_when_the_lease_has_run_out(place: Place) -> None:
    first, second = place.leadership("1"), place.leadership("2")
    first.lead()
    end_lease(place)
    assert place.leader() is None
    assert second.lead()
    assert not first.lead()
    assert place.leader() == "process 2"


def test_a_leader_that_is_late_stays_it_if_nobody_else_is(place: Place) -> None:
    leader = place.leadership("1")
    leader.lead()
    end_lease(place)
    assert leader.lead()


def test_a_leader_may_resign(place: Place) -> None:
    first, second = place.leadership("1"), place.leadership("2")
    first.lead()
    second.resign()
    assert place.leader() == "process 1"
    first.resign()
    assert place.leader() is None
    assert second.lead()


def test_a_lease_ends(place: Place) -> None:
    first, second = place.leadership("1", lease=0.001), place.leadership("2")
    first.lead()
    while not second.lead():
        pass
    assert not first.lead()


def test_only_one_is_the_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = place.leadership("1"), place.leadership("2")
    add_row = first._lead_first

    def add_row_late() -> bool:
        assert second.lead()
        return add_row()

    monkeypatch.setattr(first, "_lead_first", add_row_late)
    assert not first.lead()


@pytest.mark.parametrize("outbox_url", ["postgresql"], indirect=True)
def test_a_process_that_is_frozen_leaves_no_lock(place: Place) -> None:
    first, second = place.leadership("1"), place.leadership("2")
    first.lead()

    is_frozen = False

    def freeze(_: object) -> None:
        nonlocal is_frozen
        if not is_frozen:
            is_frozen = True
            # The first one gets no further. The second one need not wait for it.
            end_lease(place)
            assert second.lead()

    event.listen(Engine, "commit", freeze)
    try:
        assert first.lead()
    finally:
        event.remove(Engine, "commit", freeze)
    assert place.leader() == "process 2"
