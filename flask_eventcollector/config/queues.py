"""The settings of queues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from ..errors import ConfigurationError
from ..messages.wording import type_name
from .exchanges import NO_ARGUMENTS, RESERVED
from .options import (
    Reader,
    read_arguments,
    read_bool,
    read_declared_name,
    read_dict,
    read_key,
    read_name,
    read_options,
)

#: The argument of ``queue.declare`` behind the option ``"type"``.
QUEUE_TYPE = "x-queue-type"
#: The argument that names the exchange for dead letters. RabbitMQ takes any name, and
#: drops them if there is no such exchange. https://www.rabbitmq.com/docs/dlx
DEAD_LETTERS = "x-dead-letter-exchange"
_TYPES = ("classic", "quorum", "stream")
#: Which are written without "x-" by mistake, since other libraries name them so, or
#: with another mistake, for which RabbitMQ ignores them. See
#: https://www.rabbitmq.com/docs/queues#optional-arguments.
ARGUMENTS = (
    *("x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy"),
    *("x-delivery-limit", "x-expires", "x-initial-cluster-size", "x-max-age"),
    *("x-max-in-memory-bytes", "x-max-in-memory-length", "x-max-length"),
    *("x-max-length-bytes", "x-max-priority", "x-message-ttl", "x-overflow"),
    *("x-queue-leader-locator", "x-queue-master-locator", "x-queue-mode"),
    *("x-queue-type", "x-queue-version", "x-quorum-initial-group-size"),
    *("x-quorum-target-group-size", "x-single-active-consumer"),
    *("x-stream-filter-size-bytes", "x-stream-max-segment-size-bytes"),
)


@dataclass(frozen=True, slots=True)
class Binding:
    """What an exchange puts into a queue."""

    exchange: str
    #: A routing key, or a pattern of them; headers and fanout exchanges ignore it.
    key: str = ""
    #: What a headers exchange compares, and what plugins need.
    arguments: Mapping[str, Any] = field(
        default_factory=lambda: NO_ARGUMENTS, hash=False
    )

    def __str__(self) -> str:
        shown = f"{self.exchange}:{self.key}"
        return f"{shown} {dict(self.arguments)}" if self.arguments else shown


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How to declare one queue, and what it is bound to."""

    #: Whether to declare and bind it on every connect; otherwise, others do.
    declare: bool = True
    #: Whether it outlives a restart of the broker.
    durable: bool = True
    #: Whether the broker deletes it after its last consumer has gone.
    auto_delete: bool = False
    #: The arguments of its declaration.
    arguments: Mapping[str, Any] = field(
        default_factory=lambda: NO_ARGUMENTS, hash=False
    )
    bind: tuple[Binding, ...] = ()

    @property
    def type(self) -> str:
        """Its type; ``""``: the virtual host's default, as a rule ``classic``."""
        return str(self.arguments.get(QUEUE_TYPE, ""))

    @property
    def dead_letters_to(self) -> str:
        """The exchange that gets what it drops; ``""``: none, or the default one."""
        return str(self.arguments.get(DEAD_LETTERS, ""))


#: By name.
Queues = Mapping[str, QueueOptions]


def parse_queues(value: object, key: str) -> Queues:
    """Read a dict of names and options.

    :param key: the setting's name in errors.
    :raises ConfigurationError: a name or an option is invalid.
    """
    named = read_dict(value, key, "queue names and options")
    queues = {
        _name(name, key): _options(options, f"{key}[{name!r}]")
        for name, options in named.items()
    }
    return MappingProxyType(queues)


def _name(value: object, key: str) -> str:
    if value == "":
        raise ConfigurationError(f"a queue of {key} is empty: pass the name of a queue")
    name = read_declared_name(value, f"a queue of {key}")
    if name.startswith(RESERVED):
        raise ConfigurationError(
            f"{key} has the queue {name!r}, but the broker reserves names that begin"
            f" with {RESERVED!r}: choose another name"
        )
    return name


def _options(value: object, key: str) -> QueueOptions:
    if value is None:
        return QueueOptions()
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{key} is of type {type_name(value)}: pass a dict")
    named = {name: v for name, v in value.items() if not _is_argument(name)}
    options = read_options(named, key, _READERS, also=ARGUMENTS)
    # Arguments may stand among the options: all of AMQP's begin with "x-".
    direct = {name: v for name, v in value.items() if _is_argument(name)}
    arguments = [read_arguments(direct, key), options.pop("arguments", {})]
    if type := options.pop("type", ""):
        arguments.append({QUEUE_TYPE: type})
    options["arguments"] = _merged(arguments, key)
    return _checked(QueueOptions(**options), key)


def _is_argument(name: object) -> bool:
    return isinstance(name, str) and name.startswith("x-")


def _merged(tables: list[Mapping[str, Any]], key: str) -> Mapping[str, Any]:
    merged: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            if name in merged:
                raise ConfigurationError(f"{key} has {name!r} twice: write it once")
            merged[name] = value
    return MappingProxyType(merged)


def _checked(options: QueueOptions, key: str) -> QueueOptions:
    if options.type in ("quorum", "stream") and not options.durable:
        raise ConfigurationError(
            f"{key} is a {options.type} queue, which is always durable: leave out"
            " 'durable'"
        )
    return options


def _type(value: object, what: str) -> str:
    if isinstance(value, str) and value in _TYPES:
        return str.__str__(value)
    known = ", ".join(map(repr, _TYPES))
    found = repr(value) if isinstance(value, str) else type_name(value)
    raise ConfigurationError(
        f"{what} is {found}: it must be one of {known}; write another one as the"
        f" argument {QUEUE_TYPE!r}"
    )


def _bindings(value: object, what: str) -> tuple[Binding, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigurationError(
            f"{what} is of type {type_name(value)}: it must be a list of bindings, such"
            " as ['shop:orders.#']"
        )
    bindings = tuple(
        _binding(item, f"{what}[{number}]") for number, item in enumerate(value)
    )
    for number, binding in enumerate(bindings):
        if binding in bindings[:number]:
            raise ConfigurationError(
                f"{what} has {str(binding)!r} twice: write it once"
            )
    return bindings


def _binding(value: object, what: str) -> Binding:
    if isinstance(value, Mapping):
        options = read_options(value, what, _BINDING)
        if "exchange" not in options:
            _no_exchange(what)
        return Binding(**options)
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{what} is of type {type_name(value)}: write 'exchange:routing.key', or a"
            " dict with 'exchange', 'key' and 'arguments'"
        )
    exchange, _, key = value.partition(":")
    if not exchange:
        _no_exchange(what)
    return Binding(read_name(exchange, what), read_key(key, what))


def _no_exchange(what: str) -> NoReturn:
    raise ConfigurationError(
        f"{what} names no exchange, and nothing can be bound to the default exchange,"
        " where each queue gets what has its name as routing key: write"
        " 'exchange:routing.key'"
    )


def _exchange(value: object, what: str) -> str:
    return _no_exchange(what) if value == "" else read_name(value, what)


_BINDING: Mapping[str, Reader] = {
    "exchange": _exchange,
    "key": read_key,
    "arguments": read_arguments,
}
_READERS: Mapping[str, Reader] = {
    "type": _type,
    "declare": read_bool,
    "durable": read_bool,
    "auto_delete": read_bool,
    "bind": _bindings,
    "arguments": read_arguments,
}
