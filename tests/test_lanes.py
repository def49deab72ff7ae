"""One target's waiting events, with its backoff."""

from __future__ import annotations

import pytest

from flask_eventcollector.delivery.entries import Entry, State
from flask_eventcollector.delivery.lanes import Lane
from tests.parts import DELAY, Clock, letters, make_event

ROOM = 1000
NEVER = None


class Road:
    """A lane with a clock; events are named by letters."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lane = Lane(lambda failures: DELAY * failures)
        self.entries: dict[str, Entry] = {}

    def add(self, some: str, size: int = 1) -> None:
        for letter in some:
            entry = self.entries[letter] = Entry(make_event(letter, size=size))
            entry.sequence, entry.state = ord(letter), State.RETAINED
            self.lane.add(entry)

    def take(self, room: int = ROOM, room_bytes: int = ROOM) -> str:
        taken = list(self.lane.take(self.clock.now, room, room_bytes))
        for entry in taken:
            entry.state, entry.sent_at = State.IN_FLIGHT, self.clock.now
        self.lane.in_flight += len(taken)
        return letters(taken)

    def refused(self, some: str) -> None:
        self.clock.advance(1)
        for letter in some:
            entry = self.entries[letter]
            self.lane.in_flight -= 1
            entry.state = State.RETAINED
            self.lane.add(entry)
            self.lane.back_off(self.clock.now, entry.sent_at)

    def confirmed(self, some: str) -> None:
        for letter in some:
            self.lane.in_flight -= 1
            self.entries[letter].state = State.CONFIRMED
            self.lane.confirmed(1, self.clock.now)

    def due_in(self) -> float | None:
        due = self.lane.due(self.clock.now)
        return None if due is None else due - self.clock.now


@pytest.fixture
def road() -> Road:
    return Road()


def test_events_go_in_order_of_their_sequence(road: Road) -> None:
    road.add("bca")
    assert road.take() == "abc"


def test_events_that_return_go_before_those_that_wait(road: Road) -> None:
    road.add("abcdefg")
    assert road.take(room=4) == "abcd"
    road.refused("dca")
    road.lane.reopen()
    assert road.take(room=1) == "a"
    assert road.lane.oldest() is road.entries["c"]
    road.lane.remove({road.entries["c"], road.entries["f"]})
    assert road.take() == "deg"


def test_no_more_go_than_there_is_room_for(road: Road) -> None:
    road.add("abc")
    assert road.take(room=2) == "ab"


def test_no_more_go_than_there_is_room_for_their_bytes(road: Road) -> None:
    road.add("abc", size=10)
    assert road.take(room_bytes=29) == "ab"


def test_a_small_event_does_not_overtake_a_large_one(road: Road) -> None:
    road.add("a", size=10)
    road.add("b", size=1)
    assert road.take(room_bytes=9) == ""


def test_what_has_left_for_another_state_is_skipped(road: Road) -> None:
    road.add("abc")
    road.entries["a"].state = State.DROPPED
    assert road.take() == "bc"


def test_a_refusal_closes_the_lane(road: Road) -> None:
    road.add("abcd")
    road.take(room=2)
    road.refused("ab")
    assert road.lane.backing_off
    assert road.take() == ""


def test_a_closed_lane_opens_after_the_delay(road: Road) -> None:
    road.add("ab")
    road.take()
    road.refused("ab")
    assert road.due_in() == DELAY
    road.clock.advance(DELAY)
    assert road.take() == "a"


def test_what_was_sent_before_the_lane_closed_is_the_same_failure(road: Road) -> None:
    road.add("abc")
    road.take()
    road.refused("a")
    road.refused("bc")
    road.clock.advance(DELAY)
    assert road.take() == "a"


def test_the_delay_grows_with_each_failure_and_the_probes_stay_few(road: Road) -> None:
    road.add("abcdefghij")
    road.take()
    road.refused("abcdefghij")
    for failures, tried in ((1, "a"), (2, "ab"), (3, "abcd"), (4, "abcd")):
        road.clock.advance(DELAY * failures)
        assert road.take() == tried
        road.refused(tried)


def test_each_confirm_widens_the_window_by_one(road: Road) -> None:
    road.add("abcdefghij")
    road.take()
    road.refused("abcdefghij")
    road.clock.advance(DELAY)
    for confirmed, next_ in (("a", "bc"), ("bc", "defg"), ("defg", "hij")):
        road.take()
        road.confirmed(confirmed)
        assert road.take() == next_


def test_a_confirm_opens_the_lane_and_resets_its_delay(road: Road) -> None:
    road.add("abc")
    road.take()
    road.refused("ab")
    road.confirmed("c")
    assert not road.lane.backing_off
    road.clock.advance(1)
    road.take()
    road.refused("ab")
    assert road.due_in() == DELAY


def test_a_lane_that_was_never_refused_has_no_window(road: Road) -> None:
    road.add("abcdefghij")
    assert len(road.take()) == 10


def test_reopening_lets_everything_go_at_once(road: Road) -> None:
    road.add("abc")
    road.take()
    road.refused("abc")
    road.lane.reopen()
    assert road.take() == "abc"


def test_reopening_ends_the_delay_of_delayed_events(road: Road) -> None:
    road.add("b")
    delay(road, "a", 100)
    road.lane.reopen()
    assert road.take() == "ab"


def test_delayed_events_do_not_delay_others(road: Road) -> None:
    delay(road, "a", 100)
    road.add("b")
    assert road.take() == "b"


def test_delayed_events_return_to_their_places(road: Road) -> None:
    delay(road, "a", 100)
    road.add("b")
    road.clock.advance(100)
    assert road.take() == "ab"


def test_delayed_events_are_due_at_their_own_times(road: Road) -> None:
    delay(road, "a", 100)
    delay(road, "b", 50)
    assert road.due_in() == 50


def test_waiting_events_are_due_at_once(road: Road) -> None:
    road.add("a")
    assert road.due_in() == 0


def test_an_empty_lane_is_never_due(road: Road) -> None:
    assert road.due_in() is NEVER


def test_a_lane_whose_window_is_full_is_not_due(road: Road) -> None:
    road.add("abc")
    road.take()
    road.refused("abc")
    road.clock.advance(DELAY)
    assert road.take() == "a"
    assert road.due_in() is NEVER


def test_the_oldest_is_found_among_all_that_wait(road: Road) -> None:
    road.add("bc")
    delay(road, "a", 100)
    assert road.lane.oldest() is road.entries["a"]
    road.entries["a"].state = State.DROPPED
    assert road.lane.oldest() is road.entries["b"]


def test_an_empty_lane_has_no_oldest(road: Road) -> None:
    assert road.lane.oldest() is None


@pytest.mark.parametrize("held", ["waiting", "delayed", "in flight"])
def test_a_lane_counts_as_empty_only_when_nothing_is_left(
    road: Road, held: str
) -> None:
    assert not road.lane
    if held == "delayed":
        delay(road, "a", 100)
    else:
        road.add("a")
    if held == "in flight":
        road.take()
    assert road.lane


def test_a_lane_rests_while_only_time_can_help_it(road: Road) -> None:
    rests = [road.lane.resting]
    road.add("a")
    rests.append(road.lane.resting)
    road.take()
    rests.append(road.lane.resting)
    road.refused("a")
    rests.append(road.lane.resting)
    assert rests == [True, False, True, True]


def test_it_knows_whether_others_were_taken_meanwhile(road: Road) -> None:
    road.add("a")
    road.take()
    before = road.clock.now
    road.clock.advance(1)
    road.confirmed("a")
    assert road.lane.confirmed_since(before)
    assert not road.lane.confirmed_since(road.clock.now)


def delay(road: Road, letter: str, seconds: float) -> None:
    """Delay an event for some seconds."""
    entry = road.entries[letter] = Entry(make_event(letter))
    entry.sequence, entry.state = ord(letter), State.RETAINED
    road.lane.add_delayed(entry, road.clock.now + seconds)


def test_a_target_that_confirms_nothing_is_sent_less_than_blocks_a_connection() -> None:
    lane, clock = Lane(lambda failures: DELAY), Clock()
    for number in range(1000):
        entry = Entry(make_event())
        entry.sequence, entry.state = number, State.RETAINED
        lane.add(entry)
    taken = list(lane.take(clock.now, 1000, 1 << 30))
    assert len(taken) < 400
