"""Whether a process is in order, for a load balancer or an orchestrator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..delivery.limits import Limits
from ..events import Stats, Word, worst_of
from ..messages.wording import counted, waiting


class HealthStatus(Word):
    """How well a process, or a part of it, is; from best to worst."""

    OK = "ok"
    #: Something needs attention, but no event is lost: it waits.
    DEGRADED = "degraded"
    #: The next events would be lost, or be refused.
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a process's health."""

    status: HealthStatus
    #: What is wrong, and the cure; ``""``: nothing.
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """The health of one process."""

    #: By name: ``threads``, ``broker``, ``backlog``, ``storage``, ``targets`` and
    #: ``dead``.
    checks: Mapping[str, Check] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def status(self) -> HealthStatus:
        """The worst of all checks."""
        return worst_of(HealthStatus, (check.status for check in self.checks.values()))

    @property
    def is_live(self) -> bool:
        """Whether a restart would not help. It never depends on the broker."""
        threads = self.checks.get("threads")
        return threads is None or threads.status is not HealthStatus.FAILING

    @property
    def is_ready(self) -> bool:
        """Whether requests can be served without losing events.

        That is so while the broker is down, too: events wait.
        """
        return self.status is not HealthStatus.FAILING

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        checks = {
            name: {"status": check.status.value, "problem": check.problem}
            for name, check in self.checks.items()
        }
        return {"status": self.status.value, "checks": checks}


_OK = Check(HealthStatus.OK)


def health_of(stats: Stats, limits: Limits, threads_problem: str) -> Health:
    """The health of a process with these books and limits.

    :param threads_problem: what is wrong with the library's threads; ``""``: nothing.
    """
    return Health(
        MappingProxyType(
            {
                "threads": _failing(bool(threads_problem), threads_problem),
                "broker": _broker(stats),
                "backlog": _backlog(stats, limits),
                "storage": _storage(stats),
                "targets": _targets(stats),
                "dead": _dead(stats),
            }
        )
    )


def _broker(stats: Stats) -> Check:
    why = stats.broker_error or "no response"
    events = waiting(stats.in_flight + stats.retained, "event")
    return _degraded(stats.broker.is_trouble, f"{stats.broker}: {why}; {events}")


def _backlog(stats: Stats, limits: Limits) -> Check:
    held = stats.collected + stats.delayed + stats.in_flight + stats.retained
    return _failing(
        held >= limits.max_events or stats.held_bytes >= limits.max_bytes,
        "EVENTCOLLECTOR_MAX_EVENTS or EVENTCOLLECTOR_MAX_BYTES is reached, so events"
        " are dropped or refused: see why they wait",
    )


def _storage(stats: Stats) -> Check:
    """The spool, or the outbox."""
    if stats.spool_error and (stats.unspooled or stats.broker.is_trouble):
        # They are in memory only, and so will the next ones be.
        return Check(HealthStatus.FAILING, stats.spool_error)
    if stats.spool_error or stats.outbox_error:
        # A commit that can't write its events fails, so none is lost.
        return Check(HealthStatus.DEGRADED, stats.spool_error or stats.outbox_error)
    return _degraded(
        bool(stats.quarantined or stats.strays),
        f"{counted(stats.quarantined, 'damaged file')}, and {stats.strays} that nobody"
        " adopts:"
        " see flask events status",
    )


def _targets(stats: Stats) -> Check:
    worst = stats.problems[0] if stats.problems else None
    targets = counted(stats.problem_targets, "target")
    return _degraded(
        bool(stats.problem_targets),
        f"{targets} with events that are not confirmed; {worst}",
    )


def _dead(stats: Stats) -> Check:
    return _degraded(
        bool(stats.dead),
        f"{counted(stats.dead, 'dead event')}: retry what is dead, or purge it",
    )


def _degraded(problem: bool, text: str) -> Check:
    return Check(HealthStatus.DEGRADED, text) if problem else _OK


def _failing(problem: bool, text: str) -> Check:
    return Check(HealthStatus.FAILING, text) if problem else _OK
