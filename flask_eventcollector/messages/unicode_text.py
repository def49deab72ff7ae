"""Makes any text encodable in UTF-8."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """*text* with each lone surrogate replaced by U+FFFD.

    JavaScript has the same function:
    https://developer.mozilla.org/docs/Web/JavaScript/Reference/Global_Objects/String/toWellFormed
    """
    if text.isascii():
        return text
    # Two surrogates that make a pair become their character.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
