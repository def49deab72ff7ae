"""Converts objects that say themselves what they consist of."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable
from typing import Any

from .wording import type_name


def by_protocol(value: Any, default: Callable[[Any], Any]) -> Any:
    """The plain value of an enum's member, a path, or a model of another library.

    It is converted by the library's own protocol. None of these libraries is imported:
    whoever has such an object has imported it.

    :param default: converts what is in an object.
    :raises TypeError: it is none of these.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, type):
        for mark, convert in _MODELS.items():
            # Not of the object, which may have any attribute, as a Mock does.
            if hasattr(value.__class__, mark):
                return convert(value, default)
    raise TypeError(f"{type_name(value)} is not JSON")


def _pydantic(value: Any, _default: object) -> Any:
    return value.model_dump(mode="json")


def _pydantic_1(value: Any, _default: object) -> Any:
    return value.dict()


def _attrs(value: Any, _default: object) -> Any:
    return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}


def _msgspec(value: Any, default: Callable[[Any], Any]) -> Any:
    msgspec: Any = sys.modules["msgspec"]
    return msgspec.to_builtins(value, str_keys=True, enc_hook=default)


#: By an attribute that only the classes of such objects have.
_MODELS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    # https://docs.pydantic.dev/latest/concepts/serialization/
    "model_dump": _pydantic,
    # https://www.attrs.org/en/stable/extending.html
    "__attrs_attrs__": _attrs,
    # https://jcristharif.com/msgspec/api.html#msgspec.to_builtins
    "__struct_fields__": _msgspec,
    # https://docs.pydantic.dev/1.10/usage/exporting_models/
    "__fields_set__": _pydantic_1,
}
