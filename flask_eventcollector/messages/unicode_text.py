"""Makes any text fit for UTF-8."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """*text* with U+FFFD in the place of each lone surrogate.

    A browser that sends text on does the same:
    https://developer.mozilla.org/docs/Web/JavaScript/Reference/Global_Objects/String/toWellFormed
    """
    if text.isascii():
        return text
    # Two surrogates that make a pair become their character.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
