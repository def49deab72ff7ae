"""Claims by many at a time, and what they cost the database."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from flask_eventcollector.stores.outbox import claims
from flask_eventcollector.stores.outbox.claims import LOOK_INTERVAL, Position
from flask_eventcollector.stores.outbox.rows import OutboxRow
from tests.helpers import unmeasured
from tests.outbox.support import MUCH, Place, sent, seqs, statements
from tests.parts import make_event

ROOT = Path(__file__).parents[2]

#: A process with three threads that claim until nothing is left.
CLAIMER = """
import json, sys, threading
import sqlalchemy
from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.outbox import Outbox
from flask_eventcollector.stores.outbox.table import make_outbox_table

url, name = sys.argv[1:]
table = make_outbox_table(sqlalchemy.MetaData(), name)
engine = sqlalchemy.create_engine(url)
claimed = []

def work():
    outbox = Outbox(Database(engine, table), "shop")
    barrier.wait()
    while rows := outbox.claim(7, 1 << 30):
        claimed.append([row.seq for row in rows])

barrier = threading.Barrier(4)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.readline()
barrier.wait()
for thread in threads:
    thread.join()
print(json.dumps(claimed))
"""

#: A process that dies in the middle of a claim.
VICTIM = """
import sys, time
import sqlalchemy
from sqlalchemy import event
from flask_eventcollector.stores.outbox.database import Database
from flask_eventcollector.stores.outbox.outbox import Outbox
from flask_eventcollector.stores.outbox.table import make_outbox_table

url, name = sys.argv[1:]
table = make_outbox_table(sqlalchemy.MetaData(), name)
outbox = Outbox(Database(sqlalchemy.create_engine(url), table), "shop")
print(len(outbox.claim(2, 1 << 30)), flush=True)

@event.listens_for(sqlalchemy.Engine, "commit")
def hang(connection):
    print("hangs", flush=True)
    time.sleep(600)

outbox.claim(2, 1 << 30)
"""


def start(place: Place, code: str) -> subprocess.Popen[str]:
    url = place.engine.url.render_as_string(hide_password=False)
    return subprocess.Popen(
        [sys.executable, "-c", code, url, place.table.name],
        cwd=ROOT,
        env=unmeasured() | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_no_row_is_claimed_twice(place: Place) -> None:
    written = place.write(place.outbox(), range(600))
    processes = [start(place, CLAIMER) for _ in range(3)]
    for process in processes:
        assert line(process) == "ready"
    claims = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        claims += json.loads(process.communicate(timeout=60)[0])

    claimed = Counter(seq for claim in claims for seq in claim)
    assert set(claimed.values()) == {1}
    # Whoever finds all that is left locked has nothing to do, and ends.
    left = seqs(place.outbox().claim(MUCH, MUCH))
    assert sorted([*claimed, *left]) == written
    assert max(map(len, claims)) <= 7
    assert all(claim == sorted(claim) for claim in claims)


def test_a_process_that_is_killed_while_it_claims_takes_nothing_along(
    place: Place,
) -> None:
    written = place.write(place.outbox(), range(10))
    victim = start(place, VICTIM)
    assert line(victim) == "2"
    assert line(victim) == "hangs"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()

    # PostgreSQL has committed its second claim with the statement.
    taken = 4 if place.engine.dialect.name == "postgresql" else 2
    outbox, rows = place.outbox(), list[OutboxRow]()
    while len(rows) < 10 - taken:
        rows += outbox.claim(10, MUCH)
    assert seqs(rows) == written[taken:]
    assert not any(row.maybe_sent for row in rows)

    place.end_leases()
    rows = place.outbox().claim(10, MUCH)
    assert seqs(rows) == written
    assert all(row.maybe_sent for row in rows)


@pytest.mark.parametrize("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_a_row_that_appears_behind_a_claim_is_claimed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = place.outbox()
    with place.engine.connect() as late:
        outbox.write(late, [make_event("late")], held=False)
        place.write(outbox, ["early"])
        assert sent(outbox.claim(10, MUCH)) == ["early"]
        late.commit()
    monkeypatch.setattr(claims, "LOOK_INTERVAL", 0)
    monkeypatch.setattr(claims, "_LONGEST_PAUSE", 0)
    rows = [*outbox.claim(10, MUCH), *place.outbox().claim(10, MUCH)]
    assert sent(rows) == ["late"]


@pytest.mark.parametrize("outbox_url", ["postgresql", "mariadb"], indirect=True)
def test_a_claim_does_not_wait_for_another(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(4))
    place.write(outbox, ["held"], held=True)
    place.end_leases()
    seq = place.table.c.seq
    with place.engine.begin() as connection:
        for locked in (written[1], written[-1] + 1):
            row = sqlalchemy.select(seq).where(seq == locked)
            connection.execute(row.with_for_update()).one()
        assert sent(outbox.claim(10, MUCH)) == [0, 2, 3]


def test_between_two_looks_claims_start_where_the_last_but_one_had_come_to() -> None:
    position = Position()
    position.looked(1.0)
    position.claimed([49, 50])
    assert position.low == 0

    position.looked(2.0)
    position.claimed([80])
    assert position.low == 0

    position.looked(3.0)
    assert position.low == 50


def test_what_was_freed_is_claimed_before_the_claims_go_on() -> None:
    position = Position()
    position.claimed([90])
    position.looked(1.0)
    position.looked(2.0)
    position.go_back(29)
    assert position.low == 29

    # There was no room for the other one.
    position.claimed([30])
    position.looked(3.0)
    position.looked(4.0)
    assert position.low < 31

    position.claimed([31])
    position.claimed([])
    position.looked(5.0)
    position.looked(6.0)
    assert position.low == 90


def test_a_look_at_all_rows_is_due_until_all_are_free() -> None:
    position = Position()
    assert position.is_whole_look_due(0.0)
    position.looked_at_all(0.0)
    assert not position.is_whole_look_due(time.monotonic())


@pytest.mark.parametrize(("took", "pause"), [(0.001, 1.0), (0.06, 2.0), (9.0, 15.0)])
def test_slow_looks_at_all_rows_are_seldom(
    took: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    position = Position()
    position.looked_at_all(took)
    assert not position.is_whole_look_due(now + pause - 0.001)
    assert position.is_whole_look_due(now + pause + 0.001)


def test_what_is_due_in_between_is_found_by_the_next_look(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(6))
    position = outbox._claims._position
    outbox.claim(4, MUCH)
    position._next_whole_look = float("inf")
    for _ in range(3):
        position.looked_at -= LOOK_INTERVAL
        assert seqs(outbox.claim(1, MUCH)) in ([written[4]], [written[5]], [])
    assert position.low >= written[3]
    place.end_leases()
    assert outbox.claim(10, MUCH) == []
    position.looked_at -= LOOK_INTERVAL
    assert seqs(outbox.claim(10, MUCH)) == written


def free_by_another(place: Place, rows: list[int]) -> None:
    """Free rows as another process may do it."""
    freed = sqlalchemy.update(place.table).where(place.table.c.seq.in_(rows))
    with place.engine.begin() as connection:
        connection.execute(freed.values(token=None, due=0))


def test_a_claim_between_two_looks_skips_what_was_claimed(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(6))
    position = outbox._claims._position
    for _ in range(3):
        position._next_whole_look = 0
        outbox.claim(1, MUCH)
    free_by_another(place, written[:1])
    assert seqs(outbox.claim(1, MUCH)) == [written[3]]
    position._next_whole_look = 0
    assert seqs(outbox.claim(2, MUCH)) == [written[0], written[4]]


@pytest.mark.parametrize(
    ("limit", "size"), [(1, MUCH), (MUCH, 1)], ids=["events", "bytes"]
)
def test_what_a_look_at_all_rows_finds_is_claimed_without_another_one(
    place: Place, limit: int, size: int
) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(6))
    position = outbox._claims._position
    for _ in range(3):
        position._next_whole_look = 0
        outbox.claim(2, MUCH)
    free_by_another(place, written[:4])
    position._next_whole_look = 0
    outbox.claim(limit, size)
    position._next_whole_look = float("inf")
    for seq in written[1:4]:
        # However many looks at some rows come in between.
        position.looked_at -= LOOK_INTERVAL
        assert seqs(outbox.claim(limit, size)) == [seq]


def test_what_was_given_back_is_claimed_at_once(place: Place) -> None:
    outbox = place.outbox()
    written = place.write(outbox, range(6))
    for _ in range(3):
        outbox._claims._position._next_whole_look = 0
        outbox.claim(1, MUCH)
    outbox.give_back(written[:1])
    assert seqs(outbox.claim(2, MUCH)) == [written[0], written[3]]


# What the database does.


def plans(place: Place, explain: str) -> dict[str, list[Any]]:
    """How the database finds rows: those to free, and those to claim."""
    outbox = place.outbox()
    place.write(outbox, range(1000), held=True)
    outbox.give_back(place.values("seq")[:500])
    place.write(outbox, range(3000))
    _analyze(place)
    return _claim_plans(place, explain)


def _analyze(place: Place) -> None:
    with place.engine.connect() as connection:
        analyze = "ANALYZE TABLE" if "mysql" in str(place.engine.url) else "ANALYZE"
        connection.exec_driver_sql(f"{analyze} {place.table.name}").close()
        connection.commit()


def _claim_plans(place: Place, explain: str) -> dict[str, list[Any]]:
    with statements(sqlalchemy.Engine) as executed:  # type: ignore[arg-type]
        place.outbox().claim(100, MUCH)
    found = {}
    with place.engine.connect() as connection:
        for statement, parameters in executed:
            if "LIMIT" in statement:
                kind = "claim" if "ORDER BY" in statement else "free"
                rows = connection.exec_driver_sql(f"{explain} {statement}", parameters)
                found[kind] = [*rows.mappings()]
    assert found.keys() == {"claim", "free"}
    return found


@pytest.mark.parametrize("outbox_url", ["mariadb"], indirect=True)
def test_mariadb_takes_rows_in_the_order_of_its_index(new_place: Place) -> None:
    for plan in plans(new_place, "EXPLAIN").values():
        (step,) = plan
        assert step["key"] == f"{new_place.table.name}_due"
        assert "filesort" not in step["Extra"]


@pytest.mark.parametrize("outbox_url", ["postgresql"], indirect=True)
def test_postgresql_takes_rows_in_the_order_of_its_index(
    new_place: Place,
) -> None:
    for plan in plans(new_place, "EXPLAIN").values():
        text = "\n".join(step["QUERY PLAN"] for step in plan)
        assert f"Index Scan using {new_place.table.name}_due" in text
        # The few that were found may be sorted once more, for the sum of their sizes.
        assert (
            "Index Cond: (((app)::text = 'shop'::text) AND (state = 0) AND (due" in text
        )
        assert "Sort" not in text.partition("CTE ready")[2].partition("using")[0]


@pytest.mark.parametrize("outbox_url", ["postgresql"], indirect=True)
def test_postgresql_finds_rows_by_number_though_it_knew_of_none(
    new_place: Place,
) -> None:
    outbox = new_place.outbox()
    outbox.erase(new_place.write(outbox, range(1000), held=True))
    _analyze(new_place)
    new_place.write(outbox, range(1000))
    text = "\n".join(
        step["QUERY PLAN"] for step in _claim_plans(new_place, "EXPLAIN")["claim"]
    )
    # Of a table with few pages, it reads all.
    assert "(seq = ANY" in text
    assert "Loop" not in text


@pytest.mark.parametrize("outbox_url", ["sqlite"], indirect=True)
def test_sqlite_takes_rows_in_the_order_of_its_index(new_place: Place) -> None:
    for plan in plans(new_place, "EXPLAIN QUERY PLAN").values():
        (step,) = plan
        assert f"INDEX {new_place.table.name}_due" in step["detail"]
