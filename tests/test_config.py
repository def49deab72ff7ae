"""The values in ``app.config``, and the defaults."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints
from urllib.parse import quote

import flask
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from kombu.connection import Connection
from pika import URLParameters

from flask_eventcollector.config import credentials
from flask_eventcollector.config.broker_url import (
    MEMORY,
    BrokerURL,
    mask_url,
    parse_broker_urls,
)
from flask_eventcollector.config.exchanges import ExchangeOptions
from flask_eventcollector.config.keys import Settings
from flask_eventcollector.config.queues import QueueOptions
from flask_eventcollector.config.settings import (
    BACKLOGS,
    PREFIX,
    AtContextEnd,
    Config,
    InvalidText,
    Metrics,
    OutboxRelay,
    Overflow,
    SpoolSync,
    Tracing,
    choose_broker,
    read_settings,
)
from flask_eventcollector.errors import ConfigurationError
from flask_eventcollector.messages.cloudevents import ContentMode

SECRET = "hunter2"

# No deadline, since a busy machine is not a failure.
quick = settings(deadline=None, max_examples=100)
KEY = "EVENTCOLLECTOR_BROKER_URL"


def app_with(**keys: Any) -> flask.Flask:
    app = flask.Flask(__name__)
    app.config.update({f"EVENTCOLLECTOR_{k}": v for k, v in keys.items()})
    return app


def config_with(**keys: Any) -> Config:
    return Config.from_app(app_with(**keys))


def literals(annotation: object) -> set[object]:
    """The values of the Literals in *annotation*."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return set().union(*map(literals, get_args(annotation)))


def refusal(**keys: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        config_with(**keys)
    return str(caught.value)


def parse(text: str) -> BrokerURL:
    (url,) = parse_broker_urls(text, KEY)
    return url


# Settings


def test_without_settings_the_defaults_hold() -> None:
    assert config_with() == Config()


def test_the_defaults_are_those_that_are_documented() -> None:
    assert dataclasses.asdict(
        dataclasses.replace(Config(), queues={}, exchanges={})
    ) == {
        "broker_urls": None,
        "credentials": None,
        "password_file": None,
        "keyfile_password": None,
        "exchange": "",
        "queues": {},
        "exchanges": {},
        "publish_on": Config().publish_on,
        "confirm_timeout": 0.25,
        "reconnect_timeout": 0,
        "backlog": "memory",
        "spool_dir": None,
        "spool_name": None,
        "spool_sync": SpoolSync.NORMAL,
        "max_events": 100_000,
        "max_bytes": 64 * 2**20,
        "max_dead_events": 10_000,
        "overflow": Overflow.DROP_NEWEST,
        "max_in_flight": 2_000,
        "dead_after": 3600,
        "retry_delay": 1,
        "retry_max_delay": 60,
        "outbox_relay": OutboxRelay.OWN,
        "outbox_lease": 30,
        "shutdown_timeout": 2,
        "max_event_bytes": 2**20,
        "encoder": None,
        "before_enqueue": None,
        "batch_headers": False,
        "cloudevents": False,
        "cloudevents_source": None,
        "cloudevents_prefix": "ce-",
        "invalid_text": InvalidText.REFUSE,
        "heartbeat": 15,
        "autoflush": False,
        "at_context_end": AtContextEnd.WARN,
        "history_dir": None,
        "metrics": (),
        "tracing": Tracing.AUTO,
        "create_spans": False,
        "testing_broker": False,
    }


def test_the_default_is_to_publish_on_success() -> None:
    assert Config().publish_on is config_with(PUBLISH_ON="success").publish_on


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("EXCHANGE", "shop", "shop"),
        ("EXCHANGE", "", ""),
        ("CONFIRM_TIMEOUT", 0, 0.0),
        ("CONFIRM_TIMEOUT", 1.5, 1.5),
        ("RECONNECT_TIMEOUT", 5, 5.0),
        ("BACKLOG", "memory", "memory"),
        ("SPOOL_DIR", None, None),
        ("SPOOL_DIR", "/var/spool/shop", Path("/var/spool/shop")),
        ("SPOOL_DIR", Path("/var/spool/shop"), Path("/var/spool/shop")),
        ("SPOOL_NAME", None, None),
        ("SPOOL_NAME", "shop/é 1", "shop/é 1"),
        ("SPOOL_NAME", "x" * 200, "x" * 200),
        ("SPOOL_SYNC", "full", SpoolSync.FULL),
        ("SPOOL_SYNC", SpoolSync.NORMAL, SpoolSync.NORMAL),
        ("MAX_EVENTS", 1, 1),
        ("MAX_EVENTS", 1e6, 1_000_000),
        ("MAX_BYTES", 2**30, 2**30),
        ("OVERFLOW", "drop-oldest", Overflow.DROP_OLDEST),
        ("OVERFLOW", "reject", Overflow.REJECT),
        ("OVERFLOW", Overflow.REJECT, Overflow.REJECT),
        ("INVALID_TEXT", "replace", InvalidText.REPLACE),
        ("CLOUDEVENTS", False, False),
        ("CLOUDEVENTS_SOURCE", None, None),
        ("CLOUDEVENTS_PREFIX", "cloudEvents_", "cloudEvents_"),
        ("MAX_IN_FLIGHT", 1, 1),
        ("DEAD_AFTER", 0, 0.0),
        ("RETRY_DELAY", 0.01, 0.01),
        ("RETRY_MAX_DELAY", 1, 1.0),
        ("SHUTDOWN_TIMEOUT", 0, 0.0),
        ("MAX_EVENT_BYTES", 1, 1),
        ("HEARTBEAT", 65535, 65535),
        ("HEARTBEAT", 30.0, 30),
        ("AUTOFLUSH", True, True),
        ("AT_CONTEXT_END", "publish", AtContextEnd.PUBLISH),
        ("HISTORY_DIR", "/var/lib/shop/history", Path("/var/lib/shop/history")),
        ("METRICS", "prometheus", (Metrics.PROMETHEUS,)),
        ("METRICS", ["opentelemetry", "opentelemetry"], (Metrics.OPENTELEMETRY,)),
        ("METRICS", (), ()),
        ("TESTING_BROKER", True, True),
    ],
)
def test_a_setting_is_kept(key: str, value: Any, kept: Any) -> None:
    config = config_with(**{key: value})
    found = getattr(config, key.lower())
    assert found == kept
    assert type(found) is type(kept)


def test_the_dict_for_type_checkers_has_each_setting() -> None:
    names = {field.name.upper() for field in dataclasses.fields(Config)}
    keys = {f"{PREFIX}{n}".replace("BROKER_URLS", "BROKER_URL") for n in names}
    assert Settings.__annotations__.keys() == keys


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("PUBLISH_ON", {"success", "always"}),
        ("BACKLOG", set(BACKLOGS)),
        ("SPOOL_SYNC", {mode.value for mode in SpoolSync}),
        ("OVERFLOW", {policy.value for policy in Overflow}),
        ("AT_CONTEXT_END", {choice.value for choice in AtContextEnd}),
        ("INVALID_TEXT", {choice.value for choice in InvalidText}),
        ("METRICS", {choice.value for choice in Metrics}),
        ("CLOUDEVENTS_PREFIX", {"ce-", "cloudEvents_"}),
    ],
)
def test_type_checkers_know_the_choices_of_a_setting(
    key: str, choices: set[str]
) -> None:
    assert literals(get_type_hints(Settings)[f"{PREFIX}{key}"]) == choices
    for choice in choices:
        config_with(**{key: choice})


def test_settings_of_others_are_left_alone() -> None:
    app = flask.Flask(__name__)
    app.config["EVENTS"] = app.config["MY_EVENTCOLLECTOR_X"] = object()
    assert Config.from_app(app) == Config()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "BROKER_URL": "amqp://a;amqp://b",
        "HEARTBEAT": "20",
        "CONFIRM_TIMEOUT": "0.5",
        "AUTOFLUSH": "true",
        "EXCHANGES": '{"shop": {"type": "topic", "mandatory": false}, "": {}}',
        "QUEUES": '{"orders.created": {"x-queue-type": "quorum"}, "plain": null}',
        "OVERFLOW": "reject",
    }
    for name, text in environment.items():
        monkeypatch.setenv(f"FLASK_EVENTCOLLECTOR_{name}", text)
    app = flask.Flask(__name__)
    app.config.from_prefixed_env()
    assert Config.from_app(app) == Config(
        broker_urls=(parse("amqp://a"), parse("amqp://b")),
        heartbeat=20,
        confirm_timeout=0.5,
        autoflush=True,
        queues={
            "orders.created": QueueOptions(arguments={"x-queue-type": "quorum"}),
            "plain": QueueOptions(),
        },
        exchanges={
            "shop": ExchangeOptions(type="topic", mandatory=False),
            "": ExchangeOptions(declare=False),
        },
        overflow=Overflow.REJECT,
    )


#: A wrong text for each setting, in an environment variable.
WRONG_TEXTS = {
    "BROKER_URL": "localhost",
    "CREDENTIALS": "vault",
    "PASSWORD_FILE": "7",
    "KEYFILE_PASSWORD": "1234",
    "EXCHANGE": "7",
    "QUEUES": "{'orders.created': {}}",
    "EXCHANGES": "{'shop': {'type': 'topic'}}",
    "PUBLISH_ON": "never",
    **dict.fromkeys(["HISTORY_DIR", "SPOOL_DIR"], "7"),
    "SPOOL_NAME": "7",
    **dict.fromkeys(["AUTOFLUSH", "TESTING_BROKER"], "True"),
    **dict.fromkeys(["BACKLOG", "SPOOL_SYNC", "OVERFLOW", "INVALID_TEXT"], "nothing"),
    "AT_CONTEXT_END": "nothing",
    "CLOUDEVENTS_SOURCE": "7",
}


def from_environment() -> Config:
    app = flask.Flask(__name__)
    app.config.from_prefixed_env()
    return Config.from_app(app)


def cure_in_environment() -> tuple[str, str]:
    """The message about what the environment has, and the assignment in it."""
    with pytest.raises(ConfigurationError) as caught:
        from_environment()
    message, _, assignment = str(caught.value).partition("; in the environment, write ")
    return message, assignment


@pytest.fixture
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples need is there."""
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_CLOUDEVENTS_SOURCE", "/shop")
    for path in (
        "myapp.vault:broker_login",
        "shop.avro:encode",
        "shop.events:before_enqueue",
    ):
        module, name = path.split(":")
        content = SimpleNamespace(**{name: lambda: None})
        monkeypatch.setitem(sys.modules, module, cast(ModuleType, content))
    monkeypatch.setattr(credentials, "password_from", lambda *_: None)


@pytest.mark.usefixtures("_examples")
@pytest.mark.parametrize("key", Settings.__annotations__)
def test_what_the_environment_has_wrong_is_answered_in_its_own_form(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = WRONG_TEXTS.get(key.removeprefix("EVENTCOLLECTOR_"), "'5'")
    monkeypatch.setenv(f"FLASK_{key}", wrong)

    message, assignment = cure_in_environment()

    assert message.startswith(key)
    assert not re.search(r": .*({'|\bTrue\b|\bFalse\b|\bNone\b)", message)
    # As a shell reads it, it is right.
    ((variable, _, text),) = (part.partition("=") for part in shlex.split(assignment))
    assert variable == f"FLASK_{key}"
    # It shows the form, not how to do without.
    assert text not in ("null", "[]", "{}")
    monkeypatch.setenv(variable, text)
    from_environment()


@pytest.mark.parametrize("prefix", ["SHOP_", "MY_SHOP_"])
def test_any_prefix_may_be_that_of_the_app(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{prefix}EVENTCOLLECTOR_QUEUES", "{'orders.created': {}}")
    app = flask.Flask(__name__)
    app.config.from_prefixed_env(prefix[:-1])
    with pytest.raises(ConfigurationError) as caught:
        Config.from_app(app)
    cure = f"""{prefix}EVENTCOLLECTOR_QUEUES='{{"orders.created": {{}}}}'"""
    assert str(caught.value).endswith(cure)


def test_a_part_of_a_dict_may_have_its_own_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_QUEUES__orders", "durable")
    message, assignment = cure_in_environment()
    assert message == "EVENTCOLLECTOR_QUEUES['orders'] is of type str: pass a dict"
    assert assignment.startswith("FLASK_EVENTCOLLECTOR_QUEUES=")


def test_an_app_that_reads_the_environment_itself_is_told_of_flasks_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENTCOLLECTOR_MAX_EVENTS", "500")
    message = refusal(MAX_EVENTS="500")
    assert message.endswith("write FLASK_EVENTCOLLECTOR_MAX_EVENTS=100000")


def test_a_wrong_dict_from_elsewhere_is_answered_in_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_QUEUES", "another")
    # The value is the same, but these are not variables of this setting.
    for name in ("FLASK_QUEUES", "MYEVENTCOLLECTOR_QUEUES", "EVENTCOLLECTOR_QUEUES_2"):
        monkeypatch.setenv(name, "orders.created")
    message = refusal(QUEUES="orders.created")
    assert message.endswith(
        "for example EVENTCOLLECTOR_QUEUES = {'orders.created': {}}"
    )


def test_a_config_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().heartbeat = 1  # type: ignore[misc]


def test_later_changes_to_the_settings_change_nothing() -> None:
    queues: dict[str, dict[str, Any]] = {"orders": {"x-max-length": 5}}
    config = config_with(QUEUES=queues)
    queues["orders"]["x-max-length"] = 6
    queues["more"] = {}
    assert config.queues == {"orders": QueueOptions(arguments={"x-max-length": 5})}


def test_a_misspelt_setting_gets_a_suggestion() -> None:
    message = refusal(HEARBEAT=15)
    assert message == (
        "EVENTCOLLECTOR_HEARBEAT is not a setting: did you mean"
        " EVENTCOLLECTOR_HEARTBEAT?"
    )


def test_so_does_one_in_lower_case() -> None:
    with pytest.raises(ConfigurationError, match="did you mean EVENTCOLLECTOR_BROKER_"):
        read_settings({"EVENTCOLLECTOR_broker_url": "memory://"})


def test_an_unknown_setting_that_is_like_none_gets_the_list() -> None:
    message = refusal(ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ=SECRET)
    assert "the settings are EVENTCOLLECTOR_BROKER_URL, EVENTCOLLECTOR_" in message
    assert SECRET not in message


SECONDS = (
    "CONFIRM_TIMEOUT",
    "DEAD_AFTER",
    "RETRY_DELAY",
    "RETRY_MAX_DELAY",
    "SHUTDOWN_TIMEOUT",
)
COUNTS = (
    "MAX_EVENTS",
    "MAX_BYTES",
    "MAX_DEAD_EVENTS",
    "MAX_IN_FLIGHT",
    "MAX_EVENT_BYTES",
    "HEARTBEAT",
)


@pytest.mark.parametrize("key", SECONDS + COUNTS)
@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("15", "is '15': it must be a number without quotes"),
        (True, "is True: it must be a number"),
        (None, "is None: it must be a number"),
        ([1], "is of type list: it must be a number"),
        (math.nan, "is nan: it must be a finite number"),
        (math.inf, "is inf: it must be a finite number"),
        (-1, "is -1: it must be "),
    ],
)
def test_what_is_no_number_is_refused(key: str, value: Any, part: str) -> None:
    assert refusal(**{key: value}).startswith(f"EVENTCOLLECTOR_{key} {part}")


@pytest.mark.parametrize("key", COUNTS)
@pytest.mark.parametrize("value", [0, 1.5])
def test_a_count_is_a_whole_number_from_one(key: str, value: float) -> None:
    assert f"is {value}: it must be a whole number of 1 or more" in refusal(
        **{key: value}
    )


@pytest.mark.parametrize("key", ["RETRY_DELAY", "RETRY_MAX_DELAY"])
def test_a_delay_of_zero_is_refused(key: str) -> None:
    assert "is 0: it must be more than 0 seconds" in refusal(**{key: 0})


@pytest.mark.parametrize("key", SECONDS)
def test_a_time_that_no_lock_can_wait_is_refused(key: str) -> None:
    assert "it must be 0 to" in refusal(**{key: threading.TIMEOUT_MAX * 2})
    assert "it must be 0 to" in refusal(**{key: 10**400})


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("EXCHANGE", None, ["is None", "the exchange is of type NoneType"]),
        ("EXCHANGE", "x" * 256, ["the exchange takes 256 bytes"]),
        ("HEARTBEAT", 65536, ["is 65536", "16 bits", "1 to 65535 seconds"]),
        ("OVERFLOW", "drop", ["is 'drop'", "'drop-newest', 'drop-oldest', 'reject'"]),
        ("OVERFLOW", ["reject"], ["is of type list", "'reject'"]),
        ("AT_CONTEXT_END", True, ["is True", "one of 'warn', 'publish', 'keep'"]),
        ("INVALID_TEXT", "ignore", ["is 'ignore'", "one of 'refuse', 'replace'"]),
        ("CLOUDEVENTS", True, ["is True", "'structured' or 'binary', or be left out"]),
        (
            "CLOUDEVENTS",
            "both",
            ["is 'both'", "'structured' or 'binary', or be left out"],
        ),
        ("CLOUDEVENTS_SOURCE", 7, ["is 7", "it must be a URI, such as 'https://ex"]),
        ("CLOUDEVENTS_PREFIX", "ce_", ["is 'ce_'", "'ce-' or 'cloudEvents_'"]),
        ("CLOUDEVENTS_PREFIX", "cloudEvents:", ["'ce-' or 'cloudEvents_'"]),
        ("CLOUDEVENTS_PREFIX", None, ["is None", "'ce-' or 'cloudEvents_'"]),
        ("BACKLOG", "disk", ["is 'disk'", "it must be one of 'memory'"]),
        ("SPOOL_DIR", "spool", ["is 'spool'", "it must be an absolute path"]),
        ("SPOOL_DIR", "", ["is ''", "it must be the path of a folder"]),
        ("SPOOL_DIR", 7, ["is 7", "it must be the path of a folder"]),
        ("SPOOL_NAME", "", ["is ''", "it must be a name"]),
        ("SPOOL_NAME", 7, ["is 7", "it must be a name", "digits alone need quotes"]),
        ("SPOOL_NAME", "x" * 201, ["it can have 200 characters"]),
        ("SPOOL_NAME", "é" * 34, ["it can have 200 characters"]),
        ("SPOOL_NAME", "\ud83d", ["UTF-8 can't encode it"]),
        ("SPOOL_SYNC", "fast", ["is 'fast'", "it must be one of 'normal', 'full'"]),
        ("BACKLOG", None, ["is None", "it must be one of 'memory'"]),
        ("PUBLISH_ON", "never", ["is 'never'", "'success', 'always', or a function"]),
        ("PUBLISH_ON", None, ["is None", "'success', 'always', or a function"]),
        ("AUTOFLUSH", 1, ["is 1", "it must be a bool"]),
        ("AUTOFLUSH", "True", ["is 'True'", "true or false"]),
        ("TESTING_BROKER", None, ["is None", "it must be a bool"]),
        ("QUEUES", ["orders"], ["is of type list", "it must be a dict"]),
        ("QUEUES", {"": {}}, ["a queue of EVENTCOLLECTOR_QUEUES is empty"]),
        ("QUEUES", {7: {}}, ["a queue of EVENTCOLLECTOR_QUEUES is of type int"]),
        ("QUEUES", {"a": 5}, ["EVENTCOLLECTOR_QUEUES['a'] is of type int"]),
        ("QUEUES", {"a": {5: 6}}, ["a key of EVENTCOLLECTOR_QUEUES['a'] is of type"]),
        (
            "QUEUES",
            {"a": {"x-max-length": 1.5}},
            ["EVENTCOLLECTOR_QUEUES['a'][\"x-max-length\"] is of type float"],
        ),
        ("EXCHANGES", ["shop"], ["is of type list", "for example EVENTCOLLECTOR_EX"]),
        ("EXCHANGES", {7: {}}, ["an exchange of EVENTCOLLECTOR_EXCHANGES is of type"]),
        ("EXCHANGES", {"a": None}, ["['a'] is of type NoneType: it must be a dict"]),
        ("EXCHANGES", {"a": {"type": 5}}, ["EXCHANGES['a']['type'] is of type int"]),
        (
            "EXCHANGES",
            {"a": {"mandatory": 0}},
            ["['mandatory'] is of type int: it must"],
        ),
        ("EXCHANGES", {"a": {"mandatroy": False}}, ["did you mean 'mandatory'?"]),
    ],
)
def test_a_wrong_value_is_refused_with_the_cure(
    key: str, value: Any, parts: list[str]
) -> None:
    message = refusal(**{key: value})
    assert f"EVENTCOLLECTOR_{key}" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("mode", ContentMode)
def test_cloudevents_need_a_source(mode: ContentMode) -> None:
    message = refusal(CLOUDEVENTS=mode.value)
    assert f"EVENTCOLLECTOR_CLOUDEVENTS is {mode.value!r}, but" in message
    assert "EVENTCOLLECTOR_CLOUDEVENTS_SOURCE is not set: name this app" in message
    config = config_with(CLOUDEVENTS=mode.value, CLOUDEVENTS_SOURCE="/shop")
    assert (config.cloudevents, config.cloudevents_source) == (mode, "/shop")


def test_type_checkers_know_the_modes_of_cloudevents() -> None:
    known = literals(get_type_hints(Settings)[f"{PREFIX}CLOUDEVENTS"])
    assert known == {False, *(mode.value for mode in ContentMode)}


#: Of https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#source-1, and
#: of https://www.rfc-editor.org/rfc/rfc3986#section-1.1.2.
@pytest.mark.parametrize(
    "source",
    [
        "https://github.com/cloudevents",
        "mailto:cncf-wg-serverless@lists.cncf.io",
        "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
        "/cloudevents/spec/pull/123",
        "/sensors/tn-1234567/alerts",
        "1-555-123-4567",
        "ldap://[2001:db8::7]/c=GB?objectClass?one",
        "//user@[::1]:80",
        "tel:+1-816-555-1212",
        "//shop:80/a:b?c=d?/e#f?/g",
        "./a:b",
        "?a",
        "#a",
        "a%20b",
        "x" * 255,
    ],
)
def test_a_source_is_a_reference_by_uri(source: str) -> None:
    assert config_with(CLOUDEVENTS_SOURCE=source).cloudevents_source == source


@pytest.mark.parametrize(
    "source",
    [
        "",
        "a b",
        "Zoë",
        "a%2",
        "a%zz",
        "1:2",
        "a#b#c",
        "a[0]",
        "//[::1",
        "a\n",
        "x" * 256,
    ],
)
def test_what_is_no_reference_by_uri_is_no_source(source: str) -> None:
    assert "it must be a URI, such as" in refusal(CLOUDEVENTS_SOURCE=source)


def test_a_delay_above_its_maximum_is_refused() -> None:
    message = refusal(RETRY_DELAY=61)
    assert "EVENTCOLLECTOR_RETRY_MAX_DELAY (60.0 s) is less than" in message
    assert "EVENTCOLLECTOR_RETRY_DELAY (61.0 s): raise the former" in message


def test_an_event_that_would_never_fit_is_refused() -> None:
    message = refusal(MAX_BYTES=1000, MAX_EVENT_BYTES=1001)
    assert "EVENTCOLLECTOR_MAX_EVENT_BYTES (1001) is more than" in message
    assert "EVENTCOLLECTOR_MAX_BYTES (1000)" in message


def test_limits_that_are_equal_are_fine() -> None:
    config = config_with(
        MAX_BYTES=1000, MAX_EVENT_BYTES=1000, RETRY_DELAY=5, RETRY_MAX_DELAY=5
    )
    assert config.max_bytes == config.max_event_bytes
    assert config.retry_delay == config.retry_max_delay


@pytest.mark.parametrize(
    "key", ["EXCHANGE", "OVERFLOW", "HEARTBEAT", "AUTOFLUSH", "BACKLOG", "PUBLISH_ON"]
)
def test_a_url_in_the_wrong_key_does_not_show_its_password(key: str) -> None:
    url = f"amqp://user:{SECRET}@host/{'v' * 300}"
    message = refusal(**{key: url})
    assert SECRET not in message
    if key != "EXCHANGE":
        assert "is amqp://***@host: " in message
    assert SECRET not in refusal(**{key: [url]})


# When a request has succeeded


@pytest.mark.parametrize(
    ("status", "exception", "publishes"),
    [
        (200, None, True),
        (399, None, True),
        (400, None, False),
        (500, None, False),
        (None, None, True),
        (200, ValueError(), False),
        (None, SystemExit(), False),
        (200, GeneratorExit(), True),
        (500, GeneratorExit(), False),
    ],
)
def test_success_is_no_exception_and_a_status_below_400(
    status: int | None, exception: BaseException | None, publishes: bool
) -> None:
    assert config_with(PUBLISH_ON="success").publish_on(status, exception) is publishes


def test_always_is_always() -> None:
    assert config_with(PUBLISH_ON="always").publish_on(500, ValueError()) is True


def test_a_callable_decides_for_itself() -> None:
    def created(status: int | None, exception: BaseException | None) -> bool:
        return status == 201 and exception is None

    assert config_with(PUBLISH_ON=created).publish_on is created


def test_a_rule_that_must_be_awaited_is_refused() -> None:
    async def never(status: int | None, exception: BaseException | None) -> bool:
        return False

    # Its coroutine would be true.
    assert "(status, exception) -> bool without async" in refusal(PUBLISH_ON=never)


# Broker URLs that can be read


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("amqp://h", BrokerURL("amqp", "h", 5672)),
        ("amqp://h/", BrokerURL("amqp", "h", 5672)),
        ("amqp://h/%2F", BrokerURL("amqp", "h", 5672)),
        ("amqp://h/%2f", BrokerURL("amqp", "h", 5672)),
        ("amqps://h", BrokerURL("amqps", "h", 5671)),
        ("AMQP://Rabbit_1.example.", BrokerURL("amqp", "Rabbit_1.example.", 5672)),
        ("amqp://h:1/v", BrokerURL("amqp", "h", 1, "v")),
        ("amqp://h/a%2Fb%20c", BrokerURL("amqp", "h", 5672, "a/b c")),
        ("amqp://u:p@h", BrokerURL("amqp", "h", 5672, "/", "u", "p")),
        ("amqp://u:a:b+c@h", BrokerURL("amqp", "h", 5672, "/", "u", "a:b+c")),
        (
            "amqp://u%40x:p%2F%3A%C3%BC@h",
            BrokerURL("amqp", "h", 5672, "/", "u@x", "p/:ü"),
        ),
        ("amqp://[::1]/v", BrokerURL("amqp", "::1", 5672, "v")),
        (
            "amqp://u:p@[2001:DB8::1]:7",
            BrokerURL("amqp", "2001:db8::1", 7, "/", "u", "p"),
        ),
        ("amqp://h?", BrokerURL("amqp", "h", 5672)),
        (
            "amqp://h/v?connection_timeout=1500",
            BrokerURL("amqp", "h", 5672, "v", options={"connection_timeout": "1500"}),
        ),
        (
            "amqps://h?verify=verify_none&server_name_indication=a.b",
            BrokerURL(
                "amqps",
                "h",
                5671,
                options={"verify": "verify_none", "server_name_indication": "a.b"},
            ),
        ),
        ("amqp://[fe80::1%25eth0]/v", BrokerURL("amqp", "fe80::1%eth0", 5672, "v")),
        ("pyamqp://guest@h//", BrokerURL("amqp", "h", 5672)),
        ("amqp://u:p@h:1//", BrokerURL("amqp", "h", 1, "/", "u", "p")),
        (
            "amqp://h?heartbeat=30&channel_max=9&frame_max=16384&auth_mechanism=PLAIN",
            BrokerURL(
                "amqp",
                "h",
                5672,
                options={
                    "heartbeat": "30",
                    "channel_max": "9",
                    "frame_max": "16384",
                    "auth_mechanism": "PLAIN",
                },
            ),
        ),
        ("memory://", MEMORY),
        (" amqp://h\n", BrokerURL("amqp", "h", 5672)),
    ],
)
def test_a_url_is_read(text: str, url: BrokerURL) -> None:
    assert parse(text) == url


def test_without_a_user_it_is_rabbitmqs_guest() -> None:
    assert (parse("amqp://h").username, parse("amqp://h").password) == (
        "guest",
        "guest",
    )


def test_a_connection_timeout_is_given_in_milliseconds() -> None:
    assert parse("amqp://h?connection_timeout=1500").connection_timeout == 1.5
    assert parse("amqp://h").connection_timeout is None


@pytest.mark.parametrize(
    "text",
    [
        "pyamqp://guest@localhost//",
        "pyamqp://u:p@h:1/v",
        "amqp://guest:guest@localhost:5672//",
        "amqps://u:p@h/a%2Fb?heartbeat=30",
    ],
)
def test_celery_reads_a_url_as_we_do(text: str) -> None:
    ours, theirs = parse(text), Connection(text).info()
    assert (ours.host, ours.port) == (theirs["hostname"], theirs["port"])
    assert (ours.scheme == "amqps") is bool(theirs["ssl"])
    assert (ours.username, ours.password) == (theirs["userid"], theirs["password"])
    assert ours.vhost == theirs["virtual_host"]
    assert (ours.number("heartbeat") or 0) == theirs["heartbeat"]


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("ssl_options", "write amqps:// with cacertfile, certfile and keyfile"),
        ("ssl", "write amqps:// instead"),
        ("no_verify_ssl", "write verify=verify_none"),
        ("socket_timeout", "write connection_timeout, in milliseconds"),
        ("connectTimeout", "write connection_timeout, in milliseconds"),
        ("requestedHeartbeat", "write heartbeat, in seconds"),
        ("frameMax", "write frame_max"),
        ("retry_delay", "set EVENTCOLLECTOR_RETRY_DELAY instead"),
        ("blocked_connection_timeout", "leave it out, since events wait while"),
        ("password", "set EVENTCOLLECTOR_KEYFILE_PASSWORD instead"),
        ("locale", "leave it out, since it has no use here"),
    ],
)
def test_a_parameter_of_another_client_is_refused_with_ours(
    name: str, cure: str
) -> None:
    message = refusal(BROKER_URL=f"amqps://u:p@h?{name}={SECRET}")
    assert f"which is another client's: {cure}" in message
    assert SECRET not in message


def test_several_hosts_share_the_rest_of_their_url() -> None:
    urls = parse_broker_urls("amqp://u:p@a,[::1]:7,b:8/v?heartbeat=5", KEY)
    hosts = [("a", 5672), ("::1", 7), ("b", 8)]
    assert urls == tuple(
        BrokerURL("amqp", host, port, "v", "u", "p", {"heartbeat": "5"})
        for host, port in hosts
    )


def test_tls_files_are_paths(tmp_path: Path) -> None:
    path = tmp_path / "a certificate.pem"
    path.touch()
    names = ("cacertfile", "certfile", "keyfile")
    query = "&".join(f"{name}={quote(str(path))}" for name in names)
    assert parse(f"amqps://h?{query}").options == dict.fromkeys(names, str(path))


@pytest.mark.parametrize(
    "value",
    [
        "amqp://a;amqps://b",
        "amqp://a; amqps://b",
        ["amqp://a", "amqps://b"],
        ("amqp://a", "amqps://b"),
    ],
)
def test_several_urls_keep_their_order(value: Any) -> None:
    config = config_with(BROKER_URL=value)
    assert config.broker_urls == (parse("amqp://a"), parse("amqps://b"))


def test_no_url_is_no_url() -> None:
    assert config_with(BROKER_URL=None).broker_urls is None


names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
)


@st.composite
def broker_urls(draw: st.DrawFn) -> BrokerURL:
    vhost = draw(names)
    assume(len(vhost.encode()) < 256)
    return BrokerURL(
        scheme=draw(st.sampled_from(["amqp", "amqps"])),
        host=draw(
            st.from_regex(r"[A-Za-z0-9._-]+", fullmatch=True)
            | st.sampled_from(["::1", "fe80::1%eth0"])
        ),
        port=draw(st.integers(1, 65535)),
        vhost=vhost,
        username=draw(names),
        password=draw(names),
        options=draw(st.sampled_from([{}, {"connection_timeout": "500"}])),
    )


@quick
@given(broker_urls())
def test_what_a_url_shows_reads_back_with_the_password(url: BrokerURL) -> None:
    text = str(url).replace(":***@", f":{quote(url.password, safe='')}@")
    assert parse(text) == url


@quick
@given(broker_urls())
def test_pika_reads_a_url_as_we_do(url: BrokerURL) -> None:
    # pika has no zones.
    assume(url.host == url.host.lower() and "%" not in url.host)
    text = str(url).replace(":***@", f":{quote(url.password, safe='')}@")
    theirs = URLParameters(text.partition("?")[0])
    assert (theirs.host, theirs.port) == (url.host, url.port)
    assert theirs.virtual_host == url.vhost
    login: Any = theirs.credentials
    assert (login.username, login.password) == (url.username, url.password)


def test_a_url_shows_all_but_its_password() -> None:
    url = parse(f"amqps://user:{SECRET}@[::1]/a%2Fb?verify=verify_none")
    assert str(url) == "amqps://user:***@[::1]:5671/a%2Fb?verify=verify_none"
    assert repr(url) == f"<BrokerURL {url}>"
    assert SECRET not in f"{url} {url!r} {[url]} {Config(broker_urls=(url,))}"


def test_memory_is_shown_as_it_is_written() -> None:
    assert str(MEMORY) == "memory://"


def test_a_url_can_be_a_key() -> None:
    assert {parse("amqp://h/v"): 1}[parse("amqp://h/v")] == 1


# Broker URLs that can't


@pytest.mark.parametrize(
    ("text", "shown", "problem"),
    [
        ("amqp://a,amqp://b", "amqp://***", 'separate whole URLs by ";"'),
        ("amqp://a,", "amqp://***", "no host"),
        ("amqp://u:p@a:1,b:x/v", "amqp://***@a", "not a number from 1 to 65535"),
        ("amqp://u:@h/", "amqp://***@h", "a user name or a password without the other"),
        ("amqp://:p@h/", "amqp://***@h", "a user name or a password without the other"),
        ("amqp://@h/", "amqp://***", "a user name or a password without the other"),
        ("amqp://u:p@h//v", "amqp://***@h", "a / in the virtual host: write it as %2F"),
        ("amqp://u:p@h/a/b", "amqp://***@h", "a / in the virtual host"),
        (f"amqp://u:p@h/{'v' * 256}", "amqp://***@h", "virtual host takes 256 bytes"),
        ("amqp://", "amqp://***", "no host"),
        ("amqp:///v", "amqp://***", "no host"),
        ("amqp://u:p@", "amqp://***", "no host"),
        ("amqp://u:p@:5672/v", "amqp://***", "no host"),
        ("amqp://u:p@h!/v", "amqp://***", "characters that are invalid in a host name"),
        ("amqp://u:p@h:x", "amqp://***@h", "not a number from 1 to 65535"),
        ("amqp://u:p@h:", "amqp://***@h", "not a number from 1 to 65535"),
        ("amqp://u:p@h:0", "amqp://***@h", "not a number from 1 to 65535"),
        ("amqp://u:p@h:65536", "amqp://***@h", "not a number from 1 to 65535"),
        ("amqp://u:p@h:٣", "amqp://***@h", "not a number from 1 to 65535"),
        ("amqp://user:secret", "amqp://***", "not a number from 1 to 65535"),
        ("amqp://u:p@::1/", "amqp://***", "write an IPv6 address in []"),
        ("amqp://u:p@[::1]x", "amqp://***", "write an IPv6 address in []"),
        ("amqp://u:p@[::1", "amqp://***", "write an IPv6 address in []"),
        ("amqp://u:p@[fe80::1%eth0]/", "amqp://***", "hexadecimal digits, or %00: wr"),
        ("amqp://u:p@[fe80::1%25]/", "amqp://***", "is not an IPv6 address"),
        ("amqp://u:p@[fe80::1%25eth0]:x", "amqp://***@[fe80::1%25eth0]", "a port"),
        ("amqp://[fffff::1]", "amqp://***", "is not a"),
        ("amqp://[v1.x]", "amqp://***", "in [] that is not an IPv6 address"),
        ("http://u:p@h:15672", "http://***@h", "management UI"),
        ("https://h", "https://***", "management UI"),
        ("redis://u:p@h", "***", "must begin with amqp://, amqps:// or memory://"),
        ("u:p@h", "***", "must begin with amqp://"),
        ("h", "***", "must begin with amqp://"),
        ("amqp:h", "***", "must begin with amqp://"),
        ("memory", "***", "must begin with amqp://"),
        ("memory:", "***", "must begin with amqp://"),
        ("memory://h", "memory://***", "which memory:// can't have"),
        ("memory://u:p@h", "memory://***@h", "which memory:// can't have"),
        ("memory:///", "memory://***", "which memory:// can't have"),
        ("", "***", "is empty"),
        (" ", "***", "is empty"),
        ("amqp://h/#f", "amqp://***", "a second @, or a #"),
        ("amqp://u:p#x@h", "amqp://***", "write @ as %40, # as %23"),
        ("amqp://u:p@x@h", "amqp://***", "write @ as %40, # as %23"),
        (
            "amqp://u:p/x@h",
            "amqp://***",
            "has a / or ? in the user name or the password",
        ),
        (
            "amqp://u:p?x@h",
            "amqp://***",
            "has a / or ? in the user name or the password",
        ),
        ("amqp://u:p@h h", "amqp://***", "whitespace"),
        ("amqp://u:p\t@h", "amqp://***@h", "whitespace or control characters"),
        ("amqp://u:p\ud800@h", "amqp://***@h", "whitespace or control characters"),
        ("amqp://u:100%@h", "amqp://***@h", "a % without two hexadecimal digits"),
        ("amqp://u:a%00b@h", "amqp://***@h", "or %00"),
        ("amqp://u:%ff@h", "amqp://***@h", "%-escapes that are not UTF-8"),
        ("amqp://h?secret=5", "amqp://***", "the known ones are cacertfile, certfile"),
        ("amqp://h?heartbeat=0", "amqp://***", "a whole number of seconds from 1 to"),
        ("amqp://h?channel_max=-1", "amqp://***", "a whole number of channels from 1"),
        ("amqp://h?frame_max=٣", "amqp://***", "number of bytes from 4096 to 131072"),
        ("amqp://h?auth_mechanism=EXTERNAL", "amqp://***", "external without certfile"),
        ("amqp://h?auth_mechanism=amqplain", "amqp://***", "unknown auth_mechanism"),
        ("amqp://h?verify=verify_peer", "amqp://***", "for TLS only: write amqps://"),
        ("amqps://h?verify=yes", "amqps://***", "write verify_peer or verify_none"),
        ("amqps://h?verify", "amqps://***", "verify without a value"),
        (
            "amqps://h?cacertfile=no.pem",
            "amqps://***",
            "a cacertfile that does not exist",
        ),
        (
            "amqps://h?verify=verify_peer&verify=verify_none",
            "amqps://***",
            "has verify twice",
        ),
        ("amqps://h?connection_timeout=0", "amqps://***", "number of milliseconds"),
        ("amqps://h?connection_timeout=1.5", "amqps://***", "number of milliseconds"),
        ("amqps://h?connection_timeout=30", "amqps://***", "of milliseconds from 100"),
        (f"amqps://h?keyfile={__file__}", "amqps://***", "keyfile without certfile"),
    ],
)
def test_a_bad_url_is_refused_with_the_cure(
    text: str, shown: str, problem: str
) -> None:
    message = refusal(BROKER_URL=text)
    assert message.startswith(f"{KEY} ({shown}) ")
    assert problem in message


def test_one_bad_url_of_several_is_named_by_its_place() -> None:
    message = refusal(BROKER_URL=["amqp://a", "amqp://b:x"])
    assert message.startswith(f"URL 2 of {KEY} (amqp://***) has a port")


def test_a_semicolon_may_belong_to_a_password() -> None:
    message = refusal(BROKER_URL=f"amqp://u:x;{SECRET}@h")
    assert message.startswith(f"URL 1 of {KEY} (amqp://***) has a port")
    assert message.endswith("; within a URL write ; as %3B")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (5, "is of type int: it must be a URL such as amqp://"),
        ({"amqp://h": 1}, "is of type dict: it must be a URL such as amqp://"),
        (b"amqp://h", "is of type bytes: it must be a URL such as amqp://"),
        ([], "is an empty list: add a URL, or leave it out"),
        ([5], "is of type int: it must be a URL as a str"),
        ("memory://;amqp://h", "has memory:// among several URLs"),
        (["amqp://h", "memory://"], "has memory:// among several URLs"),
    ],
)
def test_what_is_no_url_is_refused(value: Any, part: str) -> None:
    assert refusal(BROKER_URL=value).startswith(f"{KEY} {part}")


# Characters with a meaning in a URL, and a few without.
odd = st.text("@:/?#[];,%& =\n\x00ü" + "ax1", max_size=6)
endings = st.sampled_from(
    [
        "",
        "/",
        "/v",
        "//",
        ":x",
        ":5672/",
        "?heartbeat=1",
        "#f",
        ",b",
        ";b",
        "%",
        " ",
        "]",
    ]
)


@quick
@given(
    scheme=st.sampled_from(
        ["amqp://", "amqps://", "http://", "memory://", "amqp:", "AMQP://", "x://", ""]
    ),
    before=odd,
    after=odd,
    ending=endings,
)
@example(scheme="amqp://", before="x;amqp://", after="", ending="")
@example(scheme="amqp://", before="x;", after="://", ending="")
@example(scheme="amqp://", before="x@", after="/a/b;x", ending="")
@example(scheme="amqp://", before="1;amqp://h?", after=";", ending="")
@example(scheme="amqps://", before="1;amqps://h?keyfile=", after=";", ending="")
@example(scheme="amqp://", before="[", after="", ending="")
def test_no_error_shows_a_password(
    scheme: str, before: str, after: str, ending: str
) -> None:
    text = f"{scheme}user:{before}{SECRET}{after}@host{ending}"
    for value in (text, [text], ["amqp://a", text], f"{text};amqp://a"):
        error = error_of(value)
        assert SECRET not in str(error)
        assert error is None or error.__suppress_context__


def error_of(value: object) -> ConfigurationError | None:
    try:
        parse_broker_urls(value, KEY)
    except ConfigurationError as error:
        return error
    return None


@quick
@given(st.text("amqps:/@;?#[]hx", max_size=12))
def test_every_text_is_a_url_or_is_refused(text: str) -> None:
    try:
        urls = parse_broker_urls(text, KEY)
    except ConfigurationError:
        return
    assert all(url.host for url in urls)


def test_a_mask_hides_what_it_does_not_know() -> None:
    assert mask_url(SECRET) == "***"
    assert mask_url(f"{SECRET}://host") == "***"


# Which broker


REAL = "amqp://h"


@pytest.mark.parametrize(
    ("testing", "debug", "keys", "chosen"),
    [
        (False, False, {"BROKER_URL": REAL}, REAL),
        (False, True, {"BROKER_URL": REAL}, REAL),
        (False, False, {"BROKER_URL": "memory://"}, "memory://"),
        (False, True, {}, "memory://"),
        (True, False, {}, "memory://"),
        (True, False, {"BROKER_URL": REAL}, "memory://"),
        (True, True, {"BROKER_URL": REAL}, "memory://"),
        (True, False, {"BROKER_URL": REAL, "TESTING_BROKER": True}, REAL),
        (False, True, {"TESTING_BROKER": True}, "memory://"),
    ],
)
def test_the_broker_is_chosen(
    testing: bool, debug: bool, keys: Mapping[str, Any], chosen: str
) -> None:
    app = app_with(**keys)
    config = Config.from_app(app)
    app.testing, app.debug = testing, debug
    assert choose_broker(config, app) == (parse(chosen),)


def test_a_test_that_requests_a_real_broker_must_name_it() -> None:
    app = flask.Flask(__name__)
    app.testing = True
    app.config["EVENTCOLLECTOR_TESTING_BROKER"] = True

    with pytest.raises(ConfigurationError, match="BROKER_URL is not set"):
        choose_broker(Config.from_app(app), app)


def test_several_brokers_are_chosen_in_their_order() -> None:
    app = app_with(BROKER_URL="amqp://b;amqp://a")
    hosts = [url.host for url in choose_broker(Config.from_app(app), app)]
    assert hosts == ["b", "a"]


def test_without_a_url_the_error_in_production_names_both_choices() -> None:
    app = app_with()
    with pytest.raises(ConfigurationError) as caught:
        choose_broker(Config.from_app(app), app)
    message = str(caught.value)
    assert message.startswith("EVENTCOLLECTOR_BROKER_URL is not set: use amqp://")
    assert "or memory:// to keep events in this process" in message
