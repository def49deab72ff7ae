"""Wording for messages. It never shows a value, which may be secret."""

from __future__ import annotations

import json
from collections.abc import Sequence

#: What to do instead, by type; the first match wins.
Cures = Sequence[tuple[tuple[type, ...], str]]

SURROGATE_CURE = 'clean it, e.g. with text.encode("utf-8", "replace").decode()'
#: For text that a setting replaces.
REPLACE_CURE = f"{SURROGATE_CURE}, or set EVENTCOLLECTOR_INVALID_TEXT to 'replace'"


def type_name(value: object) -> str:
    """The qualified name of the value's type, as in an import."""
    cls = type(value)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def quote_key(key: object) -> str:
    """A key as JSON shows it: truncated if long, escaped if not printable."""
    if not isinstance(key, str):
        return json.dumps(key)
    text = key if len(key) <= 40 else f"{key[:40]}…"
    return json.dumps(text, ensure_ascii=not text.isprintable())


def cure_for(value: object, cures: Cures, otherwise: str) -> str:
    """What to do with *value* instead."""
    return next((cure for types, cure in cures if isinstance(value, types)), otherwise)


def plural(number: int, noun: str) -> str:
    """*noun*, a regular singular, in the form that *number* requires."""
    if number == 1:
        return noun
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def counted(number: int, noun: str) -> str:
    """For example ``1 event`` or ``2 events``; *noun* is a regular singular."""
    return f"{number} {plural(number, noun)}"


def waiting(number: int, noun: str) -> str:
    """For example ``1 event waits`` or ``2 rows wait``."""
    return f"{counted(number, noun)} {'waits' if number == 1 else 'wait'}"


def printable(text: str) -> str:
    """*text* with control characters escaped, since names are untrusted input."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
