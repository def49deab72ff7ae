"""The settings of exchanges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import ConfigurationError
from ..messages.amqp_fields import check_name
from ..messages.wording import type_name

#: RabbitMQ's built-in types. Exchanges of these types return only messages that they
#: have not put into any queue. https://www.rabbitmq.com/docs/exchanges#types
PLAIN_TYPES = ("direct", "fanout", "headers", "topic")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeOptions:
    """How to publish to one exchange."""

    #: ``"direct"``, ``"topic"``, ``"fanout"``, ``"headers"`` or a plugin's; ``None``:
    #: unknown.
    type: str | None = None
    #: Whether the broker returns messages that reach no queue. Otherwise, RabbitMQ
    #: confirms them.
    mandatory: bool = True


#: By name. An exchange that is not mentioned has the defaults.
Exchanges = Mapping[str, ExchangeOptions]


def is_plain(name: str, options: ExchangeOptions) -> bool:
    """Whether a message that the exchange returns has certainly reached no queue.

    The default exchange and the predeclared exchanges of each virtual host are plain,
    too.
    """
    return not name or name.startswith("amq.") or options.type in PLAIN_TYPES


def parse_exchanges(value: object, key: str) -> Exchanges:
    """Read a dict of names and options.

    :param key: the setting's name in errors.
    :raises ConfigurationError: a name or an option is invalid.
    """
    exchanges = {
        _name(name, f"an exchange of {key}"): _options(options, f"{key}[{name!r}]")
        for name, options in _mapping(value, key, "exchange names and options")
    }
    return MappingProxyType(exchanges)


def _options(value: object, key: str) -> ExchangeOptions:
    options: dict[str, Any] = {}
    for name, option in _mapping(value, key, "options"):
        if name == "mandatory" and isinstance(option, bool):
            options[name] = option
        elif name == "type":
            options[name] = _name(option, f"{key}['type']")
        else:
            raise ConfigurationError(
                f"{key} may have 'mandatory', a bool, and 'type', a str such as"
                " 'topic', but nothing else: correct its keys and values"
            )
    return ExchangeOptions(**options)


def _mapping(value: object, key: str, content: str) -> list[tuple[Any, Any]]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{key} is of type {type_name(value)}: it must be a dict of {content}"
        )
    return list(value.items())


def _name(value: object, what: str) -> str:
    try:
        return check_name(value, what, allow_empty=True)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None
