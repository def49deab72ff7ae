"""What the database selects is what Python selects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flask_eventcollector.stores.filter import ALL, Filter
from flask_eventcollector.stores.outbox.outbox import Refused
from tests.outbox.support import Place, sent
from tests.parts import make_event

#: What has a meaning in a pattern, in LIKE, or in a string of SQL.
NAMES = st.text("aAb*?[]!-%_/\\'ü ", min_size=1, max_size=6)
REASONS = st.none() | NAMES
TARGETS = st.tuples(NAMES, NAMES | st.just(""))
PATTERNS = st.none() | NAMES
FILTERS = st.builds(
    Filter,
    queue=PATTERNS,
    dead=st.booleans(),
    waiting=st.booleans(),
    reason=PATTERNS,
    older_than=st.sampled_from([None, 0.0, 1e6, float("inf")]),
)


def fill(place: Place, rows: list[tuple[tuple[str, str], str | None]]) -> None:
    """Write rows whose payloads are their numbers; with a reason, they are dead."""
    outbox = place.outbox()
    events = [
        make_event(number, queue=queue, exchange=exchange)
        for number, ((queue, exchange), _) in enumerate(rows)
    ]
    with place.engine.begin() as connection:
        seqs = outbox.write(connection, events, held=True)
    reasons = zip(seqs, (reason for _, reason in rows), strict=True)
    outbox.die(Refused(seq, reason, 1) for seq, reason in reasons if reason)


def selected(place: Place, wanted: Filter) -> list[Any]:
    """What *wanted* selects, of all rows."""
    return [
        row.event.payload
        for row in place.admin().rows()
        if wanted.selects_state(dead=row.is_dead)
        and wanted.selects_queue(row.event.target)
        and wanted.selects_age(row.event)
        and wanted.selects_reason(row.reason)
    ]


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example([((("[]", "")), None), (("[", ""), None)], [Filter("[]"), Filter("[!]a]")])
@example([((("a]", "b")), "%"), (("!", "/"), "_")], [Filter("[]!]"), Filter("?/*")])
@example([((("b", "a")), "x"), (("a/b", ""), None)], [Filter("a/b"), Filter("a*")])
@given(
    st.lists(st.tuples(TARGETS, REASONS), max_size=12),
    st.lists(FILTERS, min_size=1, max_size=5),
)
def test_rows_are_selected_as_python_does(
    place: Place,
    rows: list[tuple[tuple[str, str], str | None]],
    filters: list[Filter],
) -> None:
    try:
        fill(place, rows)
        for wanted in filters:
            found = sent([*place.admin().rows(wanted=wanted)])
            assert found == selected(place, wanted), wanted
    finally:
        place.clear()


@pytest.mark.parametrize(
    "wanted",
    [
        Filter("orders.placed"),
        Filter("orders.*"),
        Filter("shop/ord?rs.placed"),
        Filter("orders.placed", dead=True),
        Filter(reason="is full"),
        Filter(reason="* full"),
        Filter(older_than=60),
    ],
)
def test_the_database_does_it(
    place: Place, wanted: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "selects_queue", "selects_age", "selects_reason":
        monkeypatch.setattr(Filter, name, lambda *_: True)
    one = (("orders.placed", "shop"), "it is full")
    fill(place, [(("bills", ""), None), one, (("bills", ""), "no")])

    expected = [] if wanted.older_than else [1]
    assert sent([*place.admin().rows(wanted=wanted)]) == expected
    assert len([*place.admin().rows(wanted=ALL)]) == 3
