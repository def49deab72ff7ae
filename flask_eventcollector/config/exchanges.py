"""The settings of exchanges."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..errors import ConfigurationError
from ..events import Word
from .options import (
    Reader,
    read_arguments,
    read_bool,
    read_declared_name,
    read_dict,
    read_name,
    read_options,
    read_word,
)

#: RabbitMQ's built-in types. Exchanges of these types return only messages that they
#: have not put into any queue. https://www.rabbitmq.com/docs/exchanges#types
PLAIN_TYPES = ("direct", "fanout", "headers", "topic")

#: The exchanges of each virtual host. Names that begin like theirs are reserved.
#: https://www.rabbitmq.com/docs/exchanges#default-exchange
PREDECLARED = MappingProxyType(
    {
        "amq.direct": "direct",
        "amq.fanout": "fanout",
        "amq.headers": "headers",
        "amq.match": "headers",
        "amq.topic": "topic",
    }
)
RESERVED = "amq."

#: The argument of ``exchange.declare`` behind the option ``"alternate"``.
ALTERNATE = "alternate-exchange"
#: Of a declaration or a binding.
NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


class Unrouted(Word):
    """What happens to an event that its exchange puts into no queue."""

    #: It is retained and sent again until a queue gets it, or until it is dead.
    RETRY = "retry"
    #: It is done with: nobody has subscribed.
    DISCARD = "discard"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeOptions:
    """How to declare one exchange, and how to publish to it."""

    #: ``"direct"``, ``"topic"``, ``"fanout"``, ``"headers"`` or a plugin's; ``None``:
    #: unknown, so the exchange is not declared.
    type: str | None = None
    #: Whether to declare it on every connect, if its type is known.
    declare: bool = True
    #: Whether it outlives a restart of the broker.
    durable: bool = True
    #: Whether the broker deletes it once nothing is bound to it any more.
    auto_delete: bool = False
    #: Whether only other exchanges may publish to it.
    internal: bool = False
    #: The arguments of its declaration.
    arguments: Mapping[str, Any] = field(
        default_factory=lambda: NO_ARGUMENTS, hash=False
    )
    #: Whether the broker returns messages that reach no queue. Otherwise, RabbitMQ
    #: confirms them.
    mandatory: bool = True
    #: What happens to an event that reaches no queue.
    unrouted: Unrouted = Unrouted.RETRY

    @property
    def is_declared(self) -> bool:
        """Whether the library declares it."""
        return self.type is not None and self.declare

    @property
    def alternate(self) -> str:
        """The exchange that gets what reaches no queue; ``""``: none."""
        return str(self.arguments.get(ALTERNATE, ""))


#: By name. An exchange that is not mentioned has the :data:`DEFAULTS`.
Exchanges = Mapping[str, ExchangeOptions]
DEFAULTS = ExchangeOptions()


def is_predeclared(name: str) -> bool:
    """Whether the broker has it in each virtual host, or reserves its name."""
    return not name or name.startswith(RESERVED)


def type_of(name: str, exchanges: Exchanges) -> str | None:
    """The type of an exchange; ``None``: it is unknown."""
    if is_predeclared(name):
        return PREDECLARED.get(name)
    options = exchanges.get(name)
    return None if options is None else options.type


def is_plain(name: str, options: ExchangeOptions) -> bool:
    """Whether a message that the exchange returns has certainly reached no queue.

    The default exchange and the predeclared exchanges of each virtual host are plain,
    too.
    """
    return is_predeclared(name) or options.type in PLAIN_TYPES


def parse_exchanges(value: object, key: str) -> Exchanges:
    """Read a dict of names and options.

    :param key: the setting's name in errors.
    :raises ConfigurationError: a name or an option is invalid.
    """
    named = read_dict(value, key, "exchange names and options")
    exchanges = {
        read_declared_name(name, f"an exchange of {key}"): _options(
            name, options, f"{key}[{name!r}]"
        )
        for name, options in named.items()
    }
    return MappingProxyType(exchanges)


def _options(name: object, value: object, key: str) -> ExchangeOptions:
    options = read_options(value, key, _READERS)
    if is_predeclared(str(name)):
        _check_predeclared(str(name), options, key)
        options["declare"] = False
    elif "type" not in options and (extra := _DECLARED & set(options)):
        raise ConfigurationError(
            f"{key} has {_listed(extra)} without 'type', so it can't be declared: add"
            " its type, such as 'topic'"
        )
    if "unrouted" in options and options.get("mandatory") is False:
        raise ConfigurationError(
            f"{key} has 'unrouted', but without 'mandatory' RabbitMQ does not report"
            " what reaches no queue: leave out one of them"
        )
    return ExchangeOptions(**_with_alternate(options, key))


def _check_predeclared(name: str, options: Mapping[str, Any], key: str) -> None:
    if extra := _DECLARED & set(options):
        raise ConfigurationError(
            f"{key} has {_listed(extra)}, but the broker declares this exchange itself"
            " and reserves names that begin with 'amq.': leave it out, or choose"
            " another name"
        )
    known = PREDECLARED.get(name)
    if known is not None and options.get("type", known) != known:
        raise ConfigurationError(
            f"{key}['type'] is {options['type']!r}, but this exchange is a {known}"
            " exchange in every virtual host: leave it out"
        )


def _with_alternate(options: dict[str, Any], key: str) -> dict[str, Any]:
    """The *options* with the alternate exchange as an argument."""
    alternate = options.pop("alternate", None)
    if alternate is None:
        return options
    arguments = options.get("arguments", {})
    if ALTERNATE in arguments:
        raise ConfigurationError(
            f"{key} has 'alternate' and the argument {ALTERNATE!r}: leave out one of"
            " them"
        )
    arguments = {**arguments, ALTERNATE: alternate}
    return options | {"arguments": MappingProxyType(arguments)}


def _listed(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def _type(value: object, what: str) -> str:
    name = read_name(value, what)
    if name in PLAIN_TYPES or name.startswith("x-"):
        return name
    close = difflib.get_close_matches(name, PLAIN_TYPES, n=1)
    cure = f"did you mean {close[0]!r}?" if close else "correct it"
    raise ConfigurationError(
        f"{what} is {name!r}: the types are {', '.join(map(repr, PLAIN_TYPES))}, and"
        f" those of plugins, which begin with 'x-': {cure}"
    )


_READERS: Mapping[str, Reader] = {
    "type": _type,
    "declare": read_bool,
    "durable": read_bool,
    "auto_delete": read_bool,
    "internal": read_bool,
    "alternate": read_name,
    "arguments": read_arguments,
    "mandatory": read_bool,
    "unrouted": read_word(Unrouted),
}
#: The options of a declaration.
_DECLARED = {"durable", "auto_delete", "internal", "alternate", "arguments"}
