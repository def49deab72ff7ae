"""The measured values, and ratios of values of the same round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.rabbitmq import RabbitMQNode


class Case(NamedTuple):
    """What is measured, such as batches of a size."""

    #: The cases of one group share a plot: "classic queue".
    group: str
    #: Where on its axis: "20 × 8".
    at: str

    def __str__(self) -> str:
        return f"{self.group}, {self.at}" if self.at else self.group


class Key(NamedTuple):
    """Names one series of values, one for each round."""

    benchmark: str
    case: Case
    contestant: str
    unit: str


class Spread(NamedTuple):
    """A median, with the lowest and the highest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))


@dataclass
class Results:
    """All values of a run."""

    values: dict[Key, list[float]] = field(default_factory=dict)
    #: What was left out, and why.
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, key: Key, value: float) -> None:
        self.values.setdefault(key, []).append(value)

    def spread(self, key: Key) -> Spread | None:
        return Spread.of(self.values[key]) if key in self.values else None

    def together(self, formula: Callable[..., float], *keys: Key) -> Spread | None:
        """Evaluate *formula* for each round; ``None`` if a value was not measured."""
        if not all(key in self.values for key in keys):
            return None
        rounds = zip(*(self.values[key] for key in keys), strict=True)
        return Spread.of(formula(*values) for values in rounds)

    def ratio(self, key: Key, to: Key) -> Spread | None:
        """The ratio of two series, of values of the same round."""
        return self.together(lambda one, other: one / other, key, to)

    def of(self, benchmark: str) -> Iterator[Key]:
        return (key for key in self.values if key.benchmark == benchmark)


@dataclass(frozen=True)
class Job:
    """What is repeated in each round: mostly one contestant in one case."""

    case: Case
    #: Several if they take turns within the round.
    contestants: tuple[str, ...]
    #: Returns values by contestant and unit. Raises `Unavailable` if that can't be
    #: measured here.
    run: Callable[[RabbitMQNode], Mapping[str, Mapping[str, float]]]
    #: The places on the axis, if the contestant is measured at one after another: then
    #: the values are by them.
    steps: tuple[str, ...] = ()
    #: Whether it is measured in the first round only, since it takes minutes.
    once: bool = False

    @classmethod
    def of_one(
        cls,
        case: Case,
        contestant: str,
        run: Callable[[RabbitMQNode], Mapping[str, float]],
    ) -> Job:
        """One contestant; *run* returns values by unit."""
        return cls(case, (contestant,), lambda node: {contestant: run(node)})

    def __str__(self) -> str:
        return f"{self.case}: {', '.join(self.contestants)}"

    @property
    def names(self) -> set[str]:
        """What is left out if it can't be measured here."""
        return {f"{one}, {self.case.group}" for one in self.contestants}

    @property
    def places(self) -> Mapping[str, tuple[Case, str]]:
        """The case and the contestant of which there are values, by their name."""
        if self.steps:
            [one] = self.contestants
            return {at: (self.case._replace(at=at), one) for at in self.steps}
        return {one: (self.case, one) for one in self.contestants}


def turns(jobs: Iterable[Job], rounds: int) -> list[Job]:
    """The jobs of all rounds, one after another."""
    found = list(jobs)
    return found + [job for job in found if not job.once] * (rounds - 1)


@dataclass(frozen=True)
class Benchmark:
    """What one module measures."""

    name: str
    title: str
    #: The contestant that the others are compared with, in each case.
    baseline: str
    #: The units that are plotted; the first one also gives the ratio.
    units: tuple[str, ...]
    #: Makes the jobs, in their quick form or not.
    jobs: Callable[[bool], list[Job]]


class Unavailable(RuntimeError):
    """A program that is needed is not installed."""
