"""Words for errors: types, keys and cures, never values, which may be secret."""

from __future__ import annotations

import json
from collections.abc import Sequence

#: What to do instead, by type; the first that fits.
Cures = Sequence[tuple[tuple[type, ...], str]]

SURROGATE_CURE = 'clean it, e.g. with text.encode("utf-8", "replace").decode()'


def type_name(value: object) -> str:
    """The value's type as one would import it."""
    cls = type(value)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def quote_key(key: object) -> str:
    """A key as it stands in JSON; a long one cut, an odd one escaped."""
    if not isinstance(key, str):
        return json.dumps(key)
    text = key if len(key) <= 40 else f"{key[:40]}…"
    return json.dumps(text, ensure_ascii=not text.isprintable())


def cure_for(value: object, cures: Cures, otherwise: str) -> str:
    """What to do with *value* instead."""
    return next((cure for types, cure in cures if isinstance(value, types)), otherwise)
