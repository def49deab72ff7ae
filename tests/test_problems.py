"""What keeps events from being confirmed is said at once, by target."""

from __future__ import annotations

import json

import pytest

from flask_eventcollector import BrokerState, Outcome, PublishResult, Stats
from flask_eventcollector.events import MOST_PROBLEMS, TargetProblem
from flask_eventcollector.stores.spool.admin.draining import why_left
from tests.helpers import open_shop
from tests.parts import DELAY, Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def problems(desk: Desk) -> tuple[TargetProblem, ...]:
    found: tuple[TargetProblem, ...] = desk.ledger.problems()["problems"]
    return found


def test_without_a_refusal_there_is_no_problem(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.settle("a")

    assert desk.ledger.problems() == {"problem_targets": 0, "problems": ()}


def test_a_refusing_target_is_named_with_reason_attempts_and_next_try(
    desk: Desk,
) -> None:
    desk.hand_over("abc")
    desk.take(1)
    desk.settle("a", Outcome.RETURNED, reason="no queue 'q'")
    desk.clock.advance(4)

    assert problems(desk) == (
        TargetProblem("q", "", 3, "no queue 'q'", 1, last_try=4.0, next_try=DELAY - 4),
    )


def test_a_confirm_ends_the_problem(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take(1)
    desk.settle("a", Outcome.NACKED, reason="full")
    desk.clock.advance(DELAY)
    desk.take()
    desk.settle("a")

    assert problems(desk) == ()


def test_a_single_event_that_its_target_refuses_is_a_problem(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.settle("a", Outcome.NACKED, reason="too big")
    desk.clock.advance(1)
    desk.settle("b")
    desk.take()
    desk.settle("a", Outcome.NACKED, reason="too big")

    (problem,) = problems(desk)
    assert (problem.events, problem.reason, problem.attempts) == (1, "too big", 2)


def test_a_silent_target_is_named(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.clock.advance(60)
    desk.hand_over("b", "other")
    desk.take()
    desk.settle("b")

    (problem,) = problems(desk)
    assert (problem.queue, problem.events) == ("q", 1)
    assert "no confirm" in problem.reason


def test_a_suspect_counts_for_its_target(desk: Desk) -> None:
    desk.hand_over("ab")
    desk.take()
    desk.settle("ab", Outcome.UNKNOWN, reason="closed", suspect=True, back_off=True)

    (problem,) = problems(desk)
    assert (problem.events, problem.reason) == (2, "closed")


def test_purged_events_do_not_count(desk: Desk) -> None:
    desk.hand_over("abc")
    desk.take(1)
    desk.settle("a", Outcome.NACKED, reason="full")
    desk.ledger.purge([desk["b"].event.id])

    assert problems(desk)[0].events == 2


def test_while_the_broker_is_away_no_time_is_named(desk: Desk) -> None:
    desk.hand_over("a")
    desk.take()
    desk.settle("a", Outcome.NACKED, reason="full")
    desk.ledger.on_state_change(BrokerState.DOWN, "gone")

    assert problems(desk)[0].next_try is None


def test_of_many_targets_the_worst_are_named(desk: Desk) -> None:
    for number in range(100):
        letters = [chr(1000 + 2 * number + extra) for extra in range(1 + number % 2)]
        desk.hand_over("".join(letters), f"q{number}")
        desk.take()
        desk.settle("".join(letters), Outcome.NACKED, reason="full")

    found = desk.ledger.problems()
    assert found["problem_targets"] == 100
    assert [problem.events for problem in found["problems"]] == [2] * MOST_PROBLEMS


def test_stats_are_plain_values_and_add_up() -> None:
    few = TargetProblem("few", "", 1, "full")
    many = TargetProblem("many", "x", 5, "full")
    both = Stats(problem_targets=1, problems=(few,)) + Stats(
        problem_targets=1, problems=(many,)
    )

    assert (both.problem_targets, both.problems) == (2, (many, few))
    assert json.loads(json.dumps(both.as_dict()))["problems"][0]["queue"] == "many"
    assert str(many) == "x/many: full"


def test_the_stats_of_an_app_name_the_queue_and_the_reason() -> None:
    with open_shop(RETRY_DELAY=3600, RETRY_MAX_DELAY=3600) as shop:
        shop.faults.refuse("q")
        shop.enqueue("a")
        shop.events.publish()

        (problem,) = shop.events.stats().problems
        assert (problem.queue, problem.reason) == ("q", "no queue 'q'")
        assert problem.next_try is not None


def test_the_result_of_a_publish_says_why_its_events_wait() -> None:
    with open_shop(RETRY_DELAY=3600, RETRY_MAX_DELAY=3600) as shop:
        shop.faults.refuse("q")
        shop.enqueue("a")
        shop.enqueue("b", queue="other")

        result = shop.events.publish()

        assert result == PublishResult(confirmed=1, retained=1)
        (problem,) = result.problems
        assert str(problem) == "q: no queue 'q'"
        assert (problem.events, problem.attempts) == (1, 1)
        shop.enqueue("behind")
        (behind,) = shop.events.publish().problems
        assert "refused other events" in behind.reason
        assert behind.next_try is not None


def test_the_result_names_an_unreachable_broker() -> None:
    with open_shop() as shop:
        shop.faults.go_down("it burns")
        shop.enqueue("a")

        (problem,) = shop.events.publish().problems

    assert str(problem) == "q: the broker is down: it burns"
    assert problem.next_try is None


def test_a_complete_result_has_no_problems() -> None:
    with open_shop() as shop:
        shop.enqueue("a")
        assert shop.events.publish().problems == ()


def test_a_flush_names_a_few_queues_and_counts_the_rest() -> None:
    problems = tuple(TargetProblem(f"q{n}", "", 1, "full") for n in range(20))
    stats = Stats(broker=BrokerState.READY, problem_targets=100, problems=problems)

    assert why_left(stats) == (
        "q0: full; q1: full; q2: full; q3: full; q4: full; and 95 more queues"
    )


def test_a_flush_without_a_refusal_ran_out_of_time() -> None:
    assert why_left(Stats(broker=BrokerState.READY)) == "the timeout expired"
