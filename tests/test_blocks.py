"""A block is a unit of work: ``with events.auto_publish():`` and the decorator."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

import pytest

from flask_eventcollector import AutoPublishingEventCollector, PublishResult
from tests.helpers import DEADLINE, Recorder, Shop, in_thread, open_shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


def fail(shop: Shop, error: BaseException) -> NoReturn:
    with shop.events.auto_publish():
        shop.enqueue("a")
        raise error


# The context manager.


def test_a_block_publishes_at_its_end(shop: Shop) -> None:
    with shop.events.auto_publish():
        shop.enqueue("a", "b")
        assert shop.sent() == []

    assert shop.sent() == ["a", "b"]
    assert shop.books() == {"confirmed": 2}


def test_the_class_and_the_method_are_the_same_thing(shop: Shop) -> None:
    assert isinstance(shop.events.auto_publish(), AutoPublishingEventCollector)

    with AutoPublishingEventCollector(shop.events):
        shop.enqueue("a")

    assert shop.sent() == ["a"]


def test_a_block_gives_its_collector(shop: Shop) -> None:
    with shop.events.auto_publish() as collector:
        collector.enqueue_event("a", "q")
        assert shop.events.events_to_publish == collector.events_to_publish

    assert shop.sent() == ["a"]


def test_a_block_that_raises_discards_and_the_exception_propagates(shop: Shop) -> None:
    error = ValueError("no")

    with Recorder(shop) as recorder, pytest.raises(ValueError, match="no") as caught:
        fail(shop, error)

    assert caught.value is error
    assert shop.books() == {"discarded": 1}
    assert recorder.one("events_discarded").about["reason"] == "ValueError was raised"


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_a_block_that_is_interrupted_discards(shop: Shop, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail(shop, error)

    assert shop.books() == {"discarded": 1}


def test_an_empty_block_is_fine(shop: Shop) -> None:
    with shop.events.auto_publish():
        pass

    assert shop.books() == {}


def test_a_block_ends_well_while_the_broker_is_down(shop: Shop) -> None:
    shop.faults.go_down()

    with shop.events.auto_publish():
        shop.enqueue("a")

    assert shop.books() == {"retained": 1}


def test_what_was_published_within_a_block_stays_published_when_it_raises(
    shop: Shop,
) -> None:
    def work() -> NoReturn:
        with shop.events.auto_publish():
            shop.enqueue("a")
            assert shop.events.publish() == PublishResult(confirmed=1)
            shop.enqueue("b")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work()

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_a_block_does_not_publish_what_its_thread_had_collected(shop: Shop) -> None:
    shop.enqueue("thread")

    with shop.events.auto_publish():
        shop.enqueue("block")

    assert shop.sent() == ["block"]
    assert shop.books() == {"confirmed": 1, "collected": 1}


def test_one_object_has_a_fresh_collector_for_each_run(shop: Shop) -> None:
    block = shop.events.auto_publish()

    with block as first:
        shop.enqueue("a")
    with block as second:
        assert shop.events.events_to_publish == ()
        shop.enqueue("b")

    assert first is not second
    assert shop.sent() == ["a", "b"]


def test_nested_blocks_publish_on_their_own(shop: Shop) -> None:
    with shop.events.auto_publish():
        shop.enqueue("outer 1")
        with shop.events.auto_publish():
            shop.enqueue("inner")
        assert shop.sent() == ["inner"]
        shop.enqueue("outer 2")

    assert shop.sent() == ["inner", "outer 1", "outer 2"]
    assert shop.books() == {"confirmed": 3}


def test_an_inner_block_that_raises_leaves_the_outer_one_alone(shop: Shop) -> None:
    with shop.events.auto_publish():
        shop.enqueue("outer")
        with pytest.raises(ValueError, match="no"):
            fail(shop, ValueError("no"))

    assert shop.sent() == ["outer"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_one_object_can_be_entered_within_itself(shop: Shop) -> None:
    block = shop.events.auto_publish()

    with block:
        shop.enqueue("outer")
        with block:
            shop.enqueue("inner")
        assert shop.sent() == ["inner"]

    assert shop.sent() == ["inner", "outer"]


def test_a_block_that_was_never_entered_cannot_be_left(shop: Shop) -> None:
    block = shop.events.auto_publish()

    with pytest.raises(RuntimeError, match="exited but never entered"):
        block.__exit__(None, None, None)


def test_blocks_in_generators_may_end_in_any_order(shop: Shop) -> None:
    def generate(name: str) -> Iterator[None]:
        with shop.events.auto_publish():
            shop.enqueue(name)
            yield

    first, second = generate("first"), generate("second")
    next(first)
    next(second)

    assert list(first) == []
    assert shop.sent() == ["first"]
    assert list(second) == []
    assert shop.sent() == ["first", "second"]
    assert shop.books() == {"confirmed": 2}


def test_a_block_that_has_ended_is_no_scope(shop: Shop) -> None:
    with shop.events.auto_publish():
        shop.enqueue("block")
        context = contextvars.copy_context()

    context.run(shop.enqueue, "late")

    assert shop.sent() == ["block"]
    assert [event.payload for event in shop.events.events_to_publish] == ["late"]


# The decorator.


def test_a_decorated_function_publishes_when_it_returns(shop: Shop) -> None:
    @shop.events.auto_publish()
    def double(number: int, *, factor: int = 2) -> int:
        shop.enqueue(number)
        return number * factor

    assert double(3, factor=3) == 9

    assert shop.sent() == [3]


def test_a_decorated_function_discards_when_it_raises(shop: Shop) -> None:
    @shop.events.auto_publish()
    def broken() -> None:
        shop.enqueue("a")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        broken()

    assert shop.books() == {"discarded": 1}


def test_a_decorated_function_keeps_its_name_and_its_docstring(shop: Shop) -> None:
    @shop.events.auto_publish()
    def restock() -> None:
        """Count the shelves."""

    assert (restock.__name__, restock.__doc__) == ("restock", "Count the shelves.")


def test_each_call_of_a_decorated_function_is_a_separate_unit(shop: Shop) -> None:
    @shop.events.auto_publish()
    def work(number: int) -> None:
        shop.enqueue(number)
        if number == 2:
            raise ValueError("no")

    work(1)
    with pytest.raises(ValueError, match="no"):
        work(2)
    work(3)

    assert shop.sent() == [1, 3]
    assert shop.books() == {"confirmed": 2, "discarded": 1}


def test_a_decorated_function_may_call_itself(shop: Shop) -> None:
    @shop.events.auto_publish()
    def count_down(number: int) -> None:
        shop.enqueue(number)
        if number:
            count_down(number - 1)

    count_down(3)

    assert shop.sent() == [0, 1, 2, 3]
    assert shop.books() == {"confirmed": 4}


def test_a_method_can_be_decorated(shop: Shop) -> None:
    class Shelf:
        @shop.events.auto_publish()
        def restock(self, item: str) -> str:
            shop.enqueue(item)
            return item

    assert Shelf().restock("a") == "a"

    assert shop.sent() == ["a"]


def test_a_static_method_can_be_decorated_from_below(shop: Shop) -> None:
    class Shelf:
        @staticmethod
        @shop.events.auto_publish()
        def restock(item: str) -> None:
            shop.enqueue(item)

    Shelf.restock("a")

    assert shop.sent() == ["a"]


def test_a_decorator_needs_no_app_before_the_call() -> None:
    with open_shop() as shop:
        block = AutoPublishingEventCollector(shop.events)
        work = block(partial(shop.enqueue, "a"))

        work()

        assert shop.sent() == ["a"]


def test_a_decorated_coroutine_function_publishes_when_it_has_ended(
    shop: Shop,
) -> None:
    @shop.events.auto_publish()
    async def work() -> str:
        shop.enqueue("a")
        await asyncio.sleep(0)
        shop.enqueue("b")
        return "done"

    assert asyncio.iscoroutinefunction(work)
    coroutine = work()
    assert shop.books() == {}

    assert asyncio.run(coroutine) == "done"

    assert shop.sent() == ["a", "b"]
    assert shop.books() == {"confirmed": 2}


def test_a_decorated_coroutine_function_discards_when_it_raises(shop: Shop) -> None:
    @shop.events.auto_publish()
    async def work() -> None:
        shop.enqueue("a")
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(work())

    assert shop.books() == {"discarded": 1}


def test_a_coroutine_that_is_cancelled_discards(shop: Shop) -> None:
    started = asyncio.Event()

    @shop.events.auto_publish()
    async def work() -> None:
        shop.enqueue("a")
        started.set()
        await asyncio.sleep(DEADLINE)

    async def main() -> None:
        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert shop.books() == {"discarded": 1}


def test_coroutines_that_take_turns_keep_their_events_apart(shop: Shop) -> None:
    @shop.events.auto_publish()
    async def work(name: str, error: Exception | None = None) -> int:
        shop.enqueue(f"{name}1")
        await asyncio.sleep(0)
        shop.enqueue(f"{name}2")
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return len(shop.events.events_to_publish)

    async def main() -> Any:
        tasks = work("a"), work("b", ValueError("no")), work("c")
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(main())

    assert (first, type(second), third) == (2, ValueError, 2)
    assert shop.sent() == ["a1", "a2", "c1", "c2"]
    assert shop.books() == {"confirmed": 4, "discarded": 2}


# What can't be wrapped.


def refusal(shop: Shop, thing: Any) -> str:
    with pytest.raises(TypeError) as caught:
        shop.events.auto_publish()(thing)
    return str(caught.value)


def test_a_generator_function_is_refused_with_the_cure(shop: Shop) -> None:
    def generate() -> Iterator[int]:
        yield 1

    message = refusal(shop, generate)

    assert "generate: it is a generator" in message
    assert "use 'with events.auto_publish():' inside it" in message


def test_an_async_generator_function_is_refused_with_the_cure(shop: Shop) -> None:
    async def generate() -> AsyncIterator[int]:
        yield 1

    assert "use 'with events.auto_publish():' inside it" in refusal(shop, generate)


def test_a_class_is_refused_with_the_cure(shop: Shop) -> None:
    class Shelf:
        pass

    assert "Shelf: it is a class; decorate its methods" in refusal(shop, Shelf)


@pytest.mark.parametrize("kind", [staticmethod, classmethod, property])
def test_a_descriptor_is_refused_with_the_cure(shop: Shop, kind: type[Any]) -> None:
    message = refusal(shop, kind(lambda *args: None))

    assert f"a {kind.__name__}; put auto_publish() below it" in message


@pytest.mark.parametrize("thing", [None, 7, "text"], ids=repr)
def test_what_cannot_be_called_is_refused_with_the_cure(
    shop: Shop, thing: object
) -> None:
    message = refusal(shop, thing)

    assert type(thing).__name__ in message
    assert "call it as 'auto_publish()'" in message


def test_a_decorator_without_its_parentheses_is_refused(shop: Shop) -> None:
    auto_publish: Any = shop.events.auto_publish

    with pytest.raises(TypeError):
        auto_publish(lambda: None)


# Blocks and requests.


def test_a_block_in_a_request_publishes_on_its_own(shop: Shop) -> None:
    @shop.get("/")
    def view() -> tuple[str, int]:
        shop.enqueue("request")
        with shop.events.auto_publish():
            shop.enqueue("block")
        assert shop.sent() == ["block"]
        return "no", 500

    shop.test_client().get("/")

    assert shop.sent() == ["block"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_a_request_in_a_block_publishes_on_its_own(shop: Shop) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue("request")
        return "ok"

    with shop.events.auto_publish():
        shop.enqueue("block")
        shop.test_client().get("/")
        assert shop.sent() == ["request"]

    assert shop.sent() == ["request", "block"]
    assert shop.books() == {"confirmed": 2}


def test_blocks_around_and_inside_a_request_do_not_mix(shop: Shop) -> None:
    @shop.get("/")
    def view() -> str:
        shop.enqueue("request 1")
        with shop.events.auto_publish():
            shop.enqueue("inner")
        shop.enqueue("request 2")
        return "ok"

    with shop.events.auto_publish():
        shop.enqueue("outer 1")
        shop.test_client().get("/")
        shop.enqueue("outer 2")

    assert shop.sent() == ["inner", "request 1", "request 2", "outer 1", "outer 2"]
    assert shop.books() == {"confirmed": 5}


def test_a_request_nested_in_a_requests_block_does_not_take_up_the_block(
    shop: Shop,
) -> None:
    @shop.get("/inner")
    def inner() -> tuple[str, int]:
        shop.enqueue("inner request")
        with shop.events.auto_publish():
            shop.enqueue("inner block")
        return "no", 500

    @shop.get("/outer")
    def outer() -> str:
        shop.enqueue("outer request")
        with shop.events.auto_publish():
            shop.enqueue("outer block 1")
            shop.test_client().get("/inner")
            shop.enqueue("outer block 2")
        return "ok"

    shop.test_client().get("/outer")

    expected = ["inner block", "outer block 1", "outer block 2", "outer request"]
    assert shop.sent() == expected
    assert shop.books() == {"confirmed": 4, "discarded": 1}


def test_a_decorated_view_publishes_though_its_request_fails_later(
    shop: Shop,
) -> None:
    @shop.get("/")
    @shop.events.auto_publish()
    def view() -> str:
        shop.enqueue("a")
        return "ok"

    @shop.after_request
    def break_it(response: Any) -> Any:
        shop.enqueue("b")
        response.status_code = 500
        return response

    shop.test_client().get("/")

    assert shop.sent() == ["a"]
    assert shop.books() == {"confirmed": 1, "discarded": 1}


def test_a_block_in_an_async_view_publishes_on_its_own(shop: Shop) -> None:
    @shop.get("/")
    async def view() -> str:
        shop.enqueue("request")
        with shop.events.auto_publish():
            shop.enqueue("block")
            await asyncio.sleep(0)
        return "ok"

    assert shop.test_client().get("/").status_code == 200

    assert shop.sent() == ["block", "request"]


def test_a_block_that_ends_outside_of_its_request_is_still_published(
    shop: Shop,
) -> None:
    block = ExitStack()

    with shop.test_request_context():
        block.enter_context(shop.events.auto_publish())
        shop.enqueue("block")
    block.close()

    assert shop.sent() == ["block"]


# Blocks and threads.


def test_a_block_is_no_other_threads_business(shop: Shop) -> None:
    with shop.events.auto_publish():
        shop.enqueue("mine")
        in_thread(lambda: shop.enqueue("theirs"))
        assert len(shop.events.events_to_publish) == 1

    assert shop.sent() == ["mine"]


def test_blocks_in_many_threads_do_not_mix(shop: Shop) -> None:
    all_in_their_blocks = threading.Barrier(3)
    block = shop.events.auto_publish()

    @block
    def work(name: str) -> None:
        shop.enqueue(f"{name}1", queue=name)
        all_in_their_blocks.wait(DEADLINE)
        shop.enqueue(f"{name}2", queue=name)
        assert len(shop.events.events_to_publish) == 2

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)

    assert [shop.sent(name) for name in "abc"] == [
        ["a1", "a2"],
        ["b1", "b2"],
        ["c1", "c2"],
    ]


def test_a_thread_that_takes_the_context_along_shares_the_block(shop: Shop) -> None:
    with shop.events.auto_publish():
        context = contextvars.copy_context()
        in_thread(lambda: context.run(shop.enqueue, "theirs"))
        shop.enqueue("mine")

    assert shop.sent() == ["theirs", "mine"]
    assert shop.books() == {"confirmed": 2}


def test_what_a_thread_adds_to_a_block_that_has_ended_is_not_lost(
    shop: Shop,
) -> None:
    with shop.events.auto_publish() as collector:
        pass

    in_thread(lambda: collector.enqueue_event("late", "q"))

    assert shop.books() == {"collected": 1}
    assert collector.publish().confirmed == 1
