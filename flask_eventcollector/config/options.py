"""Reads settings that are dicts of options, such as those of an exchange."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from ..errors import ConfigurationError
from ..events import Word
from ..messages.amqp_fields import check_name, copy_table
from ..messages.wording import type_name

W = TypeVar("W", bound=Word)

#: Reads one option; the second argument is what errors call it.
Reader = Callable[[object, str], Any]


def read_options(
    value: object,
    key: str,
    readers: Mapping[str, Reader],
    also: Collection[str] = (),
) -> dict[str, Any]:
    """Read a dict of options.

    :param key: what errors call it.
    :param readers: for each option that it may have, what reads its value.
    :param also: what else may have been meant by an unknown option.
    :raises ConfigurationError: an option is unknown or invalid.
    """
    options = read_dict(value, key, f"options ({', '.join(readers)})")
    return {
        name: (readers.get(name) or _unknown(name, key, readers, also))(
            option, f"{key}[{name!r}]"
        )
        for name, option in options.items()
    }


def read_dict(value: object, key: str, content: str) -> Mapping[Any, Any]:
    """A dict.

    :param content: what it must have, in an error.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{key} is of type {type_name(value)}: it must be a dict of {content}"
        )
    return value


def _unknown(
    name: object, key: str, readers: Mapping[str, Reader], also: Collection[str]
) -> NoReturn:
    if not isinstance(name, str):
        raise ConfigurationError(
            f"a key of {key} is of type {type_name(name)}: pass a str"
        )
    close = difflib.get_close_matches(name, [*readers, *also], n=1)
    cure = (
        f"did you mean {close[0]!r}?"
        if close
        else f"the options are {', '.join(map(repr, readers))}"
    )
    raise ConfigurationError(f"{key} has an unknown option {name!r}: {cure}")


def read_name(value: object, what: str) -> str:
    """A name that is not empty."""
    if value == "":
        raise ConfigurationError(f"{what} is empty: write a name, or leave it out")
    return read_key(value, what)


def read_declared_name(value: object, what: str) -> str:
    """The name of an exchange or a queue, as it is declared; it may be empty."""
    name = read_key(value, what)
    if "\n" in name or "\r" in name:
        raise ConfigurationError(
            f"{what} has a line break in its name, which RabbitMQ removes: remove it"
        )
    return name


def read_key(value: object, what: str) -> str:
    """A name or a routing key, which may be empty."""
    try:
        return check_name(value, what, allow_empty=True)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def read_bool(value: object, what: str) -> bool:
    """``True`` or ``False``."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{what} is of type {type_name(value)}: it must be a bool")


def read_arguments(value: object, what: str) -> Mapping[str, Any]:
    """A table of AMQP arguments."""
    try:
        return MappingProxyType(copy_table(value, what)[0])
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def read_word(words: type[W]) -> Reader:
    """One of the *words*."""

    def read(value: object, what: str) -> W:
        try:
            return words(value)
        except ValueError:
            known = ", ".join(repr(word.value) for word in words)
            found = repr(value) if isinstance(value, str) else type_name(value)
            raise ConfigurationError(
                f"{what} is {found}: it must be one of {known}"
            ) from None

    return read
