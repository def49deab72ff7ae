"""The exchanges, queues and bindings of the settings, and what may be wrong."""

from __future__ import annotations

from enum import Enum
from typing import Any

import flask
import pytest

from flask_eventcollector import Config, ConfigurationError
from flask_eventcollector.brokers.rabbitmq.declarations import steps
from flask_eventcollector.config.exchanges import ExchangeOptions, Unrouted
from flask_eventcollector.config.queues import ARGUMENTS, Binding, QueueOptions
from flask_eventcollector.config.topology import of_others, silent_losses
from tests.helpers import open_shop

SHOP: dict[str, Any] = {"shop": {"type": "topic"}}


def config_with(exchanges: Any = SHOP, queues: Any = {}) -> Config:  # noqa: B006
    app = flask.Flask(__name__)
    app.config["EVENTCOLLECTOR_EXCHANGES"] = exchanges
    app.config["EVENTCOLLECTOR_QUEUES"] = queues
    return Config.from_app(app)


def refusal(exchanges: Any = SHOP, queues: Any = {}) -> str:  # noqa: B006
    with pytest.raises(ConfigurationError) as caught:
        config_with(exchanges, queues)
    return str(caught.value)


def losses(exchanges: Any = SHOP, queues: Any = {}) -> list[str]:  # noqa: B006
    return silent_losses(config_with(exchanges, queues).topology)


# What is read


def test_an_exchange_has_all_options_of_amqp() -> None:
    options = {
        "type": "topic",
        "durable": False,
        "auto_delete": True,
        "internal": True,
        "alternate": "unrouted",
        "arguments": {"x-more": 5},
        "unrouted": "discard",
    }
    assert config_with({"shop": options}).exchanges["shop"] == ExchangeOptions(
        type="topic",
        durable=False,
        auto_delete=True,
        internal=True,
        arguments={"x-more": 5, "alternate-exchange": "unrouted"},
        unrouted=Unrouted.DISCARD,
    )


@pytest.mark.parametrize(
    ("name", "options", "declared"),
    [
        ("shop", {"type": "topic"}, True),
        ("shop", {"type": "x-delayed-message"}, True),
        ("shop", {"type": "topic", "declare": False}, False),
        ("shop", {}, False),
        ("shop", {"mandatory": False}, False),
        ("amq.topic", {"type": "topic"}, False),
        ("", {"unrouted": "discard"}, False),
    ],
)
def test_it_is_declared_if_its_type_is_known_and_it_is_nobody_elses(
    name: str, options: dict[str, Any], declared: bool
) -> None:
    assert config_with({name: options}).exchanges[name].is_declared is declared


@pytest.mark.parametrize(
    "options",
    [
        {"type": "quorum", "x-max-length": 5},
        {"type": "quorum", "arguments": {"x-max-length": 5}},
        {"x-queue-type": "quorum", "x-max-length": 5},
        {"arguments": {"x-queue-type": "quorum", "x-max-length": 5}},
    ],
)
def test_the_arguments_of_a_queue_may_stand_where_they_stood_before(
    options: dict[str, Any],
) -> None:
    queue = config_with(queues={"orders": options}).queues["orders"]
    assert queue.type == "quorum"
    assert queue.arguments == {"x-queue-type": "quorum", "x-max-length": 5}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("shop:orders.#", Binding("shop", "orders.#")),
        ("shop:a:b", Binding("shop", "a:b")),
        ("amq.fanout", Binding("amq.fanout")),
        ("amq.fanout:", Binding("amq.fanout")),
        ({"exchange": "shop", "key": "orders.#"}, Binding("shop", "orders.#")),
        (
            {"exchange": "amq.headers", "arguments": {"x-match": "any", "a": 1}},
            Binding("amq.headers", arguments={"x-match": "any", "a": 1}),
        ),
    ],
)
def test_a_binding_is_written_in_one_of_two_ways(
    written: object, read: Binding
) -> None:
    config = config_with(queues={"orders": {"bind": [written]}})
    assert config.queues["orders"] == QueueOptions(bind=(read,))


def test_a_topology_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchanges = '{"shop": {"type": "topic", "alternate": "unrouted"}}'
    queues = '{"orders": {"type": "quorum", "bind": ["shop:orders.#"]}}'
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_EXCHANGES", exchanges)
    monkeypatch.setenv("FLASK_EVENTCOLLECTOR_QUEUES", queues)
    app = flask.Flask(__name__)
    app.config.from_prefixed_env()

    topology = Config.from_app(app).topology

    assert topology.exchanges["shop"].alternate == "unrouted"
    assert list(topology.bindings) == [("orders", Binding("shop", "orders.#"))]


# What is refused


@pytest.mark.parametrize(
    ("exchanges", "cure"),
    [
        ({"a": {"tpye": "topic"}}, "'tpye': did you mean 'type'?"),
        ({"a": {"colour": 1}}, "the options are 'type', 'declare', 'durable'"),
        ({"a": {7: 1}}, "a key of EVENTCOLLECTOR_EXCHANGES['a'] is of type int"),
        ({"a": {"type": "topics"}}, "did you mean 'topic'?"),
        ({"a": {"type": "mirror"}}, "those of plugins, which begin with 'x-': correct"),
        ({"a": {"type": ""}}, "['type'] is empty: write a name"),
        ({"a": {"type": "topic", "durable": 1}}, "['durable'] is of type int: it must"),
        (
            {"a": {"type": "topic", "alternate": 1}},
            "['alternate'] is of type int: pass",
        ),
        (
            {"a": {"type": "topic", "arguments": 1}},
            "['arguments'] is of type int: pass",
        ),
        ({"a": {"type": "topic", "unrouted": "drop"}}, "one of 'retry', 'discard'"),
        ({"a": {"type": "topic", "unrouted": 1}}, "is int: it must be one of 'retry'"),
        ({"a": {"durable": True}}, "has 'durable' without 'type'"),
        (
            {"a": {"type": "topic", "mandatory": False, "unrouted": "discard"}},
            "without 'mandatory' RabbitMQ does not report what reaches no queue",
        ),
        (
            {
                "a": {
                    "type": "topic",
                    "alternate": "b",
                    "arguments": {"alternate-exchange": "c"},
                }
            },
            "has 'alternate' and the argument 'alternate-exchange'",
        ),
        ({"a": {"type": "topic", "alternate": "a"}}, "its own alternate exchange"),
        ({"amq.mine": {"durable": True}}, "reserves names that begin with 'amq.'"),
        ({"": {"internal": True}}, "the broker declares this exchange itself"),
        (
            {"amq.topic": {"type": "direct"}},
            "is a topic exchange in every virtual host",
        ),
    ],
)
def test_a_wrong_exchange_is_refused_with_the_cure(exchanges: Any, cure: str) -> None:
    message = refusal(exchanges)
    assert message.startswith(
        ("EVENTCOLLECTOR_EXCHANGES", "a key of EVENTCOLLECTOR_EX")
    )
    assert cure in message


@pytest.mark.parametrize(
    ("queue", "cure"),
    [
        ({"tpye": "quorum"}, "'tpye': did you mean 'type'?"),
        ({"max-length": 9}, "'max-length': did you mean 'x-max-length'?"),
        ({"dead_letter_exchange": "x"}, "did you mean 'x-dead-letter-exchange'?"),
        ({"x-message-ttl": 1.5}, "does not have: send an int, or a str"),
        ({"type": "mirrored"}, "is 'mirrored': it must be one of 'classic', 'quorum'"),
        ({"type": 1}, "is int: it must be one of 'classic', 'quorum', 'stream'"),
        ({"type": "quorum", "x-queue-type": "classic"}, "has 'x-queue-type' twice"),
        ({"x-a": 1, "arguments": {"x-a": 2}}, "has 'x-a' twice"),
        (
            {"type": "quorum", "durable": False},
            "a quorum queue, which is always durable",
        ),
        ({"auto_delete": "yes"}, "['auto_delete'] is of type str: it must be a bool"),
        (
            {"bind": "shop:a"},
            "it must be a list of bindings, such as ['shop:orders.#']",
        ),
        ({"bind": [7]}, "['bind'][0] is of type int: write 'exchange:routing.key'"),
        ({"bind": [":orders"]}, "nothing can be bound to the default exchange"),
        ({"bind": [""]}, "nothing can be bound to the default exchange"),
        ({"bind": [{"key": "a"}]}, "nothing can be bound to the default exchange"),
        (
            {"bind": [{"exchange": "", "key": "a"}]},
            "nothing can be bound to the default",
        ),
        ({"bind": [{"exchange": "shop", "keys": "a"}]}, "did you mean 'key'?"),
        (
            {"bind": [{"exchange": "shop", "key": 7}]},
            "['key'] is of type int: pass a str",
        ),
        ({"bind": ["shop:a", "shop:a"]}, "has 'shop:a' twice: write it once"),
        ({"bind": ["shpo:a"]}, "has no exchange 'shpo': did you mean 'shop'?"),
        ({"bind": ["amq.topics:a"]}, "no such exchange: did you mean 'amq.topic'?"),
        ({"bind": ["other:a"]}, "or as {'other': {}} if others declare it"),
        ({"bind": ["shop"]}, "write 'shop:#' for all"),
        ({"bind": ["amq.direct"]}, "a direct exchange compares: add it after a colon"),
        ({"bind": ["shop:" + "x" * 256]}, "AMQP allows 255: shorten it"),
    ],
)
def test_a_wrong_queue_is_refused_with_the_cure(queue: Any, cure: str) -> None:
    message = refusal(queues={"orders": queue})
    assert message.startswith("EVENTCOLLECTOR_QUEUES['orders']")
    assert cure in message


class Kind(str, Enum):
    """Its members are equal to the words, but not shown as them."""

    QUORUM = "quorum"


def test_the_type_of_a_queue_may_be_a_member_of_an_enum() -> None:
    config = config_with({}, {"orders": {"type": Kind.QUORUM}})
    assert config.queues["orders"].type == "quorum"


def test_a_queue_can_t_have_a_reserved_name() -> None:
    assert "begin with 'amq.'" in refusal(queues={"amq.gen-1": {}})


@pytest.mark.parametrize("name", ["a\nb", "a\r"])
def test_a_name_has_no_line_break_since_rabbitmq_removes_it(name: str) -> None:
    cure = "has a line break in its name, which RabbitMQ removes: remove it"
    message = refusal(queues={name: {}})
    assert message.startswith(f"a queue of EVENTCOLLECTOR_QUEUES {cure}")
    message = refusal({name: {"type": "topic"}})
    assert message.startswith(f"an exchange of EVENTCOLLECTOR_EXCHANGES {cure}")


def test_events_do_not_go_to_an_internal_exchange() -> None:
    app = flask.Flask(__name__)
    app.config["EVENTCOLLECTOR_EXCHANGES"] = {
        "audit": {"type": "fanout", "internal": True}
    }
    assert Config.from_app(app).exchange == ""
    app.config["EVENTCOLLECTOR_EXCHANGE"] = "audit"
    with pytest.raises(ConfigurationError, match="publish to it: leave out 'internal'"):
        Config.from_app(app)


def test_nor_does_a_single_event() -> None:
    with open_shop(EXCHANGES={"audit": {"type": "fanout", "internal": True}}) as shop:
        with pytest.raises(
            ValueError, match="exchange is 'audit', to which only other"
        ):
            shop.events.enqueue_event(1, "q", exchange="audit")
        assert shop.books() == {}


# What it leaves to others


def test_the_exchanges_of_others_are_those_that_it_needs_and_does_not_declare() -> None:
    config = config_with(
        {
            "shop": {"type": "topic", "alternate": "unrouted"},
            "crm": {},
            "erp": {"type": "direct", "declare": False},
        },
        {
            "orders": {
                "bind": ["shop:#", "amq.topic:#", "amq.rabbitmq.trace:#"],
                "x-dead-letter-exchange": "dead",
            },
            "mail": {"declare": False, "x-dead-letter-exchange": "theirs"},
            "audit": {"x-dead-letter-exchange": ""},
        },
    )
    found = [one for one in of_others(config.topology, "billing") if one[1] != "mail"]
    names = ["billing", "crm", "erp", "amq.rabbitmq.trace", "unrouted", "dead"]
    assert found == [("exchange", name) for name in names]
    assert of_others(config.topology, "")[0] == ("exchange", "crm")


def test_a_queue_of_others_is_neither_declared_nor_bound() -> None:
    orders = {"declare": False, "bind": ["shop:#"], "x-max-length": 5}
    config = config_with(queues={"orders": orders, "audit": {"bind": ["shop:#"]}})
    assert of_others(config.topology, "") == [("queue", "orders")]
    declared = [str(step) for step in steps(config.topology)]
    assert declared == [
        "exchange 'shop'",
        "queue 'audit'",
        "binding 'shop:#' of queue 'audit'",
    ]
    # Whoever declares it decides about its arguments.
    assert silent_losses(config.topology) == []


def test_what_a_queue_of_others_is_bound_to_is_checked() -> None:
    message = refusal(queues={"orders": {"declare": False, "bind": ["crm:#"]}})
    assert "has no exchange 'crm'" in message
    assert "'declare'] is" in refusal(queues={"orders": {"declare": "no"}})


# What may lose messages silently


@pytest.mark.parametrize(
    ("queue", "loss"),
    [
        ({"x-max-length": 9}, "drops its oldest messages at 'x-max-length'"),
        (
            {"x-max-length-bytes": 9},
            "drops its oldest messages at 'x-max-length-bytes'",
        ),
        ({"x-max-length": 9, "x-overflow": "drop-head"}, "set 'x-overflow' to 'reject"),
        ({"x-message-ttl": 9}, "drops messages older than 'x-message-ttl'"),
        ({"x-delivery-limit": 9}, "drops messages redelivered beyond"),
        ({"x-expires": 9}, "after 'x-expires' without a consumer: leave it out"),
        ({"x-ha-policy": "all"}, "set 'type' to 'quorum'"),
        (
            {"x-max-lenght": 9},
            "'x-max-lenght', which RabbitMQ ignores: did you mean 'x-max-length'?",
        ),
        (
            {"type": "stream", "x-max_age": "7D"},
            "'x-max_age', which RabbitMQ ignores: did you mean 'x-max-age'?",
        ),
        ({"durable": False}, "is not durable"),
        ({"auto_delete": True}, "when its last consumer goes"),
    ],
)
def test_a_queue_that_may_lose_messages_is_told_with_the_cure(
    queue: dict[str, Any], loss: str
) -> None:
    (found,) = losses(queues={"orders": queue})
    assert found.startswith("queue 'orders' ")
    assert loss in found


@pytest.mark.parametrize(
    "queue",
    [
        {},
        {"x-max-length": 9, "x-overflow": "reject-publish"},
        {"x-max-length": 9, "x-dead-letter-exchange": "dead"},
        {"x-message-ttl": 9, "x-dead-letter-exchange": "dead"},
        {"type": "stream", "x-max-length-bytes": 9},
        {"type": "quorum", "bind": ["shop:#"]},
        {"type": "quorum", "x-delivery-limit": -1},
        {"x-message-deduplication": True, "x-cache-size": 9, "x-mine": 1},
    ],
)
def test_a_queue_that_keeps_its_messages_is_fine(queue: dict[str, Any]) -> None:
    assert losses(queues={"orders": queue}) == []


DEAD: dict[str, Any] = {"dead": {"type": "fanout"}}


def test_dead_letters_for_an_exchange_without_a_queue_are_told() -> None:
    orders = {"type": "quorum", "x-dead-letter-exchange": "dead"}
    assert losses(DEAD, {"orders": orders}) == [
        "queue 'orders' has dead letters go to exchange 'dead', to which no queue of"
        " the settings is bound: if nobody else binds one, they are lost. Bind one"
    ]


@pytest.mark.parametrize(
    ("exchanges", "more"),
    [
        (DEAD, {"dead": {"bind": ["dead"]}}),
        ({"dead": {"type": "topic", "alternate": "amq.fanout"}}, {}),
        ({"dead": {}}, {}),
        ({}, {}),
    ],
    ids=["bound", "with an alternate", "of others", "unknown"],
)
def test_dead_letters_that_somebody_may_read_are_fine(
    exchanges: Any, more: dict[str, Any]
) -> None:
    orders = {"x-dead-letter-exchange": "dead"}
    found = losses(exchanges, {"orders": orders, **more})
    assert not any("dead letters" in loss for loss in found)


def test_no_argument_of_rabbitmq_is_taken_for_another_one() -> None:
    queue = dict.fromkeys(ARGUMENTS, 1)
    assert not any("ignores" in loss for loss in losses(queues={"orders": queue}))


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({"alternate": "unrouted"}, "to which no queue of the settings is bound"),
        ({"mandatory": False}, "set 'unrouted' to 'discard' to have it counted"),
        ({"durable": False}, "is not durable"),
        ({"auto_delete": True}, "when nothing is bound to it any more"),
    ],
)
def test_an_exchange_that_may_lose_messages_is_told_with_the_cure(
    options: dict[str, Any], loss: str
) -> None:
    (found,) = losses({"shop": {"type": "topic"} | options})
    assert found.startswith("exchange 'shop' ")
    assert loss in found


def test_an_alternate_exchange_with_a_queue_is_fine() -> None:
    exchanges = {
        "shop": {"type": "topic", "alternate": "unrouted"},
        "unrouted": {"type": "fanout"},
    }
    assert losses(exchanges, {"rest": {"bind": ["unrouted"]}}) == []


def test_a_plugins_exchange_need_not_be_mandatory() -> None:
    assert losses({"later": {"type": "x-delayed-message", "mandatory": False}}) == []
