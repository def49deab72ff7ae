"""Reads the settings for what a connection authenticates with."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ..errors import ConfigurationError
from ..messages.wording import type_name
from .functions import is_function

_IMPORT_PATH = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<name>\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What ``EVENTCOLLECTOR_CREDENTIALS`` returns. ``repr`` shows no password."""

    #: The password, or an OAuth 2 token.
    password: str = field(repr=False)
    #: The user; ``None``: the one in the broker's URL.
    username: str | None = None
    #: Seconds from now on for which they are valid; ``None``: not known. New ones are
    #: requested before that.
    expires_in: float | None = None


#: Returns the credentials for the next connection. May block.
CredentialsSource = Callable[[], Credentials]


def read_credentials(key: str, value: object) -> CredentialsSource | None:
    """The callable that the setting is, or that it names.

    :raises ConfigurationError: it is neither, or can't be imported. The message does
        not show the value, which may be a password in the wrong place.
    """
    source = _imported(key, value) if isinstance(value, str) else value
    if source is None:
        return None
    if not is_function(source):
        _fail(key, f"is of type {type_name(source)}: it must be a plain function")
    return source


def _imported(key: str, text: str) -> object:
    path = _IMPORT_PATH.fullmatch(text)
    if path is None:
        _fail(key, "is not an import path: write it as myapp.vault:broker_login")
    name = path["module"]
    try:
        module = importlib.import_module(name)
    except Exception as error:
        _fail(key, f"can't be imported: {_import_problem(name, error)}")
    if not hasattr(module, path["name"]):
        _fail(key, "names a function that its module does not have")
    return getattr(module, path["name"])


def _import_problem(module: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module}.".startswith(f"{missing}."):
        return "there is no such module; write it as myapp.vault:broker_login"
    return f"{type(error).__name__}: {error}"


def read_password_file(key: str, value: object) -> Path | None:
    """The path of the file, which must exist and have a password.

    :raises ConfigurationError: it can't be used. The message does not show the value.
    """
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        _fail(key, f"is of type {type_name(value)}: it must be the path of a file")
    path = Path(value)
    if not path.is_absolute():
        _fail(key, "is not an absolute path, so not every process would find it")
    password_from(path, key)
    return path


def password_from(path: Path, key: str) -> Credentials:
    """The password in the file, without a line break at its end.

    :raises ConfigurationError: it can't be read, or has no password.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        _fail(key, f"names a file that can't be read: {error.strerror}")
    except UnicodeDecodeError:
        _fail(key, "names a file that is not UTF-8")
    credentials = Credentials(password=text.removesuffix("\n").removesuffix("\r"))
    return checked(credentials, f"{key} names a file with")


def checked(value: object, origin: str) -> Credentials:
    """*value*, if a connection can use it.

    :param origin: the beginning of a message about it.
    :raises ConfigurationError: it can't. The message shows no part of it.
    """
    if not isinstance(value, Credentials):
        raise ConfigurationError(
            f"{origin} a value of type {type_name(value)}: it must be"
            " flask_eventcollector.Credentials(password=…)"
        )
    if not is_secret(value.password):
        raise ConfigurationError(
            f"{origin} a password that is empty, no str, or not UTF-8"
        )
    if value.username is not None and not is_secret(value.username):
        raise ConfigurationError(
            f"{origin} a user name that is empty, no str, or not UTF-8"
        )
    if not _is_time(value.expires_in):
        raise ConfigurationError(
            f"{origin} an expires_in that is not a number of seconds above 0"
        )
    return value


def is_secret(value: object) -> bool:
    """Whether *value* is text that can be sent to a broker."""
    # A NUL separates the user name from the password.
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_time(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value <= sys.float_info.max


def _fail(key: str, problem: str) -> NoReturn:
    raise ConfigurationError(f"{key} {problem}") from None
