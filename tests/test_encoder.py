"""What an app's own functions make of an event, and models of other libraries."""

from __future__ import annotations

import enum
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from flask.json.provider import DefaultJSONProvider

from flask_eventcollector import ConfigurationError, EncodingError, EventDraft
from flask_eventcollector.config.settings import Config
from flask_eventcollector.messages.encoding import EventEncoder, Ids
from tests.helpers import Shop, open_shop

IDS = Ids()


class Colour(enum.Enum):
    RED = "red"


def encode(payload: Any, *, options: Any = None, **settings: Any) -> Any:
    encoder = EventEncoder(max_event_bytes=1000, **settings)
    return encoder.encode(payload, "orders", options=options, ids=IDS)


# Objects with a protocol.


def pydantic_model() -> Any:
    model: Any = pytest.importorskip("pydantic").create_model(
        "Order", id=(uuid.UUID, ...), colour=(Colour, Colour.RED)
    )
    return model(id=uuid.UUID(int=7))


def attrs_object() -> Any:
    make: Any = pytest.importorskip("attrs").make_class("Order", ["id", "colour"])
    return make(uuid.UUID(int=7), Colour.RED)


def msgspec_struct() -> Any:
    fields = [("id", uuid.UUID), ("colour", Colour)]
    make: Any = pytest.importorskip("msgspec").defstruct("Order", fields)
    return make(uuid.UUID(int=7), Colour.RED)


class LikePydantic:
    def model_dump(self, *, mode: str) -> Any:
        assert mode == "json"
        return {"id": str(uuid.UUID(int=7)), "colour": "red"}


class LikePydantic1:
    __fields_set__ = ()

    def dict(self) -> Any:
        return {"id": uuid.UUID(int=7), "colour": Colour.RED}


class LikeAttrs:
    __attrs_attrs__ = (SimpleNamespace(name="id"), SimpleNamespace(name="colour"))

    def __init__(self) -> None:
        self.id, self.colour = uuid.UUID(int=7), Colour.RED


MODELS: dict[str, Callable[[], Any]] = {
    "pydantic": pydantic_model,
    "attrs": attrs_object,
    "msgspec": msgspec_struct,
    "like pydantic": LikePydantic,
    "like pydantic 1": LikePydantic1,
    "like attrs": LikeAttrs,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_is_sent_as_its_library_says(make: Callable[[], Any]) -> None:
    sent = {"id": str(uuid.UUID(int=7)), "colour": "red"}
    assert encode(make()).payload == sent
    assert encode({"orders": [make()]}).payload == {"orders": [sent]}


def test_a_struct_may_hold_what_only_the_app_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Struct:
        __struct_fields__ = ("when",)

    def to_builtins(value: Any, *, str_keys: bool, enc_hook: Callable[..., Any]) -> Any:
        return {"when": enc_hook(Colour.RED)}

    fake = SimpleNamespace(to_builtins=to_builtins)
    monkeypatch.setitem(sys.modules, "msgspec", fake)
    assert encode(Struct()).payload == {"when": "red"}


def test_enums_and_paths_are_sent_as_their_values() -> None:
    payload = {"colour": Colour.RED, "path": PurePosixPath("a/b")}
    assert encode(payload).payload == {"colour": "red", "path": "a/b"}


def test_the_app_decides_first() -> None:
    class Provider(DefaultJSONProvider):
        @staticmethod
        def default(value: Any) -> Any:
            if isinstance(value, Colour):
                return value.name
            return DefaultJSONProvider.default(value)

    with open_shop() as shop:
        shop.json = Provider(shop)
        assert shop.events.enqueue_event(
            [Colour.RED, PurePosixPath("a")], "q"
        ).payload == [
            "RED",
            "a",
        ]


@pytest.mark.parametrize(
    "value",
    [LikePydantic, object(), {1}, Mock()],
    ids=["class", "object", "set", "what has any attribute"],
)
def test_what_has_no_protocol_is_refused(value: Any) -> None:
    with pytest.raises(EncodingError, match="payload is of type"):
        encode(value)


# EVENTCOLLECTOR_ENCODER.


def as_csv(payload: Any, queue: str) -> tuple[bytes, str]:
    return f"{queue},{payload}".encode(), "text/csv"


def test_an_encoder_makes_the_body_and_names_its_type() -> None:
    event = encode(7, encoder=as_csv)
    assert (event.body, event.content_type) == (b"orders,7", "text/csv")
    assert event.payload == b"orders,7"


def test_bytes_with_a_type_do_not_pass_the_encoder() -> None:
    options = {"content_type": "image/png"}
    event = encode(b"\x89", options=options, encoder=as_csv)
    assert (event.body, event.content_type) == (b"\x89", "image/png")
    assert encode(b"\x89", encoder=as_csv).body == rb"orders,b'\x89'"


def test_the_caller_may_name_the_type_more_precisely() -> None:
    options = {"content_type": "text/csv; header=absent", "priority": 5}
    event = encode(7, options=options, encoder=as_csv)
    assert event.content_type == "text/csv; header=absent"
    assert event.properties.priority == 5


def test_json_of_an_encoder_is_json() -> None:
    event = encode(7, encoder=lambda payload, queue: (b"[7]", "application/json"))
    assert (event.payload, event.properties.as_dict()) == ([7], {})


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (b"7", "returned a value of type bytes: return the body as bytes and its"),
        (("7", "text/plain"), "returned a value of type str first: return the body"),
        (None, "returned a value of type NoneType"),
        ((b"7", None), "the encoder's content type is of type NoneType: pass a str"),
        ((b"7", ""), "the encoder's content type is empty"),
        ((b"x" * 1001, "text/plain"), "payload takes 1001 bytes, but EVENTCOLLECTOR_"),
    ],
    ids=str,
)
def test_a_wrong_result_of_an_encoder_is_named(result: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        encode(7, encoder=lambda payload, queue: result)


# EVENTCOLLECTOR_BEFORE_ENQUEUE.


def enrich(draft: EventDraft) -> None:
    draft.headers["tenant"] = "acme"
    draft.options.setdefault("correlation_id", "request-1")
    draft.payload = {k: v for k, v in draft.payload.items() if k != "password"}


def broken(*args: Any) -> Any:
    raise LookupError("no tenant")


@pytest.fixture
def shop() -> Iterator[Shop]:
    with open_shop(BEFORE_ENQUEUE=f"{__name__}:enrich") as shop:
        yield shop


def test_the_hook_may_add_and_remove(shop: Shop) -> None:
    payload = {"name": "ann", "password": "hunter2"}
    headers = {"version": 1}

    event = shop.events.enqueue_event(payload, "q", headers=headers)

    assert event.payload == {"name": "ann"}
    assert event.headers == {"version": 1, "tenant": "acme"}
    assert event.properties.correlation_id == "request-1"
    assert (headers, "password" in payload) == ({"version": 1}, True)


def test_the_hook_sees_what_the_caller_has_said(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        event = block.enqueue_event({}, "q", correlation_id="mine", priority=3)
    assert event.properties.as_dict() == {"correlation_id": "mine", "priority": 3}


def test_the_hook_may_choose_another_target() -> None:
    def move(draft: EventDraft) -> None:
        draft.target_queue, draft.exchange = f"eu.{draft.target_queue}", "shop"

    event = encode(1, before_enqueue=move)
    assert (event.exchange, event.target_queue) == ("shop", "eu.orders")


def test_headers_are_checked_before_the_hook_gets_a_copy() -> None:
    encoder = EventEncoder(max_event_bytes=1000, before_enqueue=lambda draft: None)
    headers: Any = ["tenant"]
    with pytest.raises(TypeError, match="headers is of type list: pass a dict"):
        encoder.encode(1, "orders", headers, ids=IDS)


def test_what_the_hook_writes_is_checked() -> None:
    def write(draft: EventDraft) -> None:
        draft.options["priority"] = "high"

    with pytest.raises(TypeError, match="priority is of type str"):
        encode(1, before_enqueue=write)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["priority"], "draft.options is of type list: pass a dict"),
        ({7: 1}, "no argument 7: there are content_type, "),
        ({"exchange": ""}, "draft.options has 'exchange': set draft.exchange instead"),
    ],
    ids=["list", "number", "attribute"],
)
def test_options_that_the_hook_replaces_are_checked(options: Any, error: str) -> None:
    def replace(draft: EventDraft) -> None:
        draft.options = options

    with pytest.raises(TypeError, match=error):
        encode(1, before_enqueue=replace)


def test_a_hook_that_returns_something_is_told_to_change_the_draft() -> None:
    hook: Any = lambda draft: draft  # noqa: E731 - as short as in a mistake
    with pytest.raises(
        TypeError, match=r"BEFORE_ENQUEUE returned a value of type .*Ev"
    ):
        encode(1, before_enqueue=hook)


@pytest.mark.parametrize("setting", ["encoder", "before_enqueue"])
def test_an_error_goes_on_as_itself_and_names_the_setting(setting: str) -> None:
    with pytest.raises(LookupError, match="no tenant") as caught:
        encode(1, **{setting: broken})
    if sys.version_info >= (3, 11):
        (note,) = caught.value.__notes__
        name = f"EVENTCOLLECTOR_{setting.upper()}"
        assert note == f"raised by {name}, so the event was not enqueued"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes")
def test_a_hook_that_enqueues_without_end_is_named_once() -> None:
    def again(draft: EventDraft) -> None:
        encoder.encode(1, "q", ids=IDS)

    encoder = EventEncoder(max_event_bytes=1000, before_enqueue=again)
    with pytest.raises(RecursionError) as caught:
        encoder.encode(1, "q", ids=IDS)
    assert len(caught.value.__notes__) == 1


def test_an_error_in_the_hook_loses_nothing_else(shop: Shop) -> None:
    with shop.events.auto_publish() as block:
        block.enqueue_event({"n": 1}, "q")
        with pytest.raises(AttributeError):
            block.enqueue_event(["has no items()"], "q")
        block.enqueue_event({"n": 2}, "q")
    assert shop.sent("q") == [{"n": 1}, {"n": 2}]


# The settings.


async def waits(*_: object) -> None:
    """Does nothing unless somebody awaits it."""


class Waits:
    """The same as an object."""

    async def __call__(self, *_: object) -> None: ...


@pytest.mark.parametrize("name", ["ENCODER", "BEFORE_ENQUEUE"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (5, "is 5: it must be a function"),
        (waits, "without async"),
        (Waits(), "without async"),
        (partial(waits, 1), "without async"),
        (f"{__name__}:nothing", "it can't be imported (AttributeError: "),
        ("no_such_module:f", "it can't be imported (ModuleNotFoundError: "),
        ("?", "it can't be imported (ValueError: "),
        (f"{__name__}:IDS", "it must be a function"),
    ],
    ids=[
        *("number", "async", "async call", "async partial"),
        *("no name", "no module", "no path", "no function"),
    ],
)
def test_a_wrong_function_is_refused(name: str, value: Any, error: str) -> None:
    with pytest.raises(ConfigurationError) as caught, open_shop(**{name: value}):
        pass
    assert str(caught.value).startswith(f"EVENTCOLLECTOR_{name} is ")
    assert error in str(caught.value)


def test_a_function_may_be_given_itself_or_by_its_path() -> None:
    for value in (as_csv, f"{__name__}:as_csv", f"{__name__}.as_csv"):
        with open_shop(ENCODER=value) as shop:
            config: Config = shop.extensions["eventcollector"].config
            assert config.encoder is as_csv
