"""Recognises URIs: https://www.rfc-editor.org/rfc/rfc3986#appendix-A."""

from __future__ import annotations

import re

_CHARACTER = r"(?:[\w.~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})"
_REFERENCE = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:)?"
    # Without a scheme, a colon in the first segment would end one.
    r"(?(scheme)|(?![^/?#]*:))"
    # An address of IP version 6.
    r"(?://[^/?#@\[\]]*@?\[[0-9A-Fa-f:.]+\](?=[:/?#]|$))?"
    rf"{_CHARACTER}*"
    rf"(?:\?(?:{_CHARACTER}|\?)*)?"
    rf"(?:#(?:{_CHARACTER}|\?)*)?",
    re.ASCII,
)


def is_uri_reference(text: str) -> bool:
    """Whether *text* is a URI, or a part of one such as a path; it may be empty."""
    return _REFERENCE.fullmatch(text) is not None


def is_uri(text: str) -> bool:
    """Whether *text* is a URI with a scheme."""
    found = _REFERENCE.fullmatch(text)
    return found is not None and found["scheme"] is not None
