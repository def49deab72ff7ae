"""What an examination finds."""

from __future__ import annotations

from typing import NamedTuple

from ..events import Word, worst_of


class Level(Word):
    """How bad something is; from best to worst."""

    OK = "ok"
    #: It works, but may lose events or hold them up, or has no effect.
    WARNING = "warning"
    #: Events are lost, refused or held up, or will be.
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What one check has found."""

    level: Level
    what: str
    #: What to do about it; ``""``: nothing.
    cure: str = ""
    #: What was examined, for example ``broker``.
    about: str = ""


def ok(what: str) -> Finding:
    """Something is as it should be."""
    return Finding(Level.OK, what)


def warning(what: str, cure: str) -> Finding:
    """Something may go wrong."""
    return Finding(Level.WARNING, what, cure)


def problem(what: str, cure: str) -> Finding:
    """Something is wrong."""
    return Finding(Level.PROBLEM, what, cure)


def of_dead(which: str) -> Finding:
    """Events are dead, those that *which* counts."""
    return warning(
        f"dead, so not sent any more: {which}",
        "see the reasons by 'flask events dead', then retry or purge them",
    )


def split(text: str, otherwise: str = "") -> tuple[str, str]:
    """What is wrong, and the cure, of a text that has the cure behind its last colon.

    :param otherwise: the cure if the text has none.
    """
    what, _, cure = text.rpartition(": ")
    return (what, cure) if what else (text, otherwise)


def worst(findings: list[Finding]) -> Level:
    """The worst level of all."""
    return worst_of(Level, (finding.level for finding in findings))
