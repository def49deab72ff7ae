"""All checks, in the order in which they are made."""

from __future__ import annotations

from . import (
    broker,
    host,
    monitoring,
    outbox,
    settings,
    spool,
    targets,
    threads,
    topology,
    workers,
)
from .examination import Check

CHECKS = (
    Check("settings", settings.names),
    Check("settings", settings.changes),
    Check("settings", settings.values),
    Check("threads", threads.start),
    Check("threads", threads.patches),
    Check("threads", threads.python),
    Check("broker", broker.nodes, deadline=20.0),
    Check("broker", broker.round_trip, deadline=10.0),
    Check("broker", broker.rights, deadline=10.0),
    Check("topology", topology.stands, deadline=20.0),
    Check("targets", targets.targets, deadline=15.0),
    Check("spool", spool.folder),
    Check("spool", spool.disk),
    Check("spool", spool.left, deadline=15.0),
    Check("outbox", outbox.tables, deadline=10.0),
    Check("outbox", outbox.relay, deadline=10.0),
    Check("outbox", outbox.database, deadline=10.0),
    Check("workers", workers.running, deadline=10.0),
    Check("history", monitoring.history),
    Check("metrics", monitoring.metrics),
    Check("host", host.server),
    Check("host", host.fork),
    Check("host", host.files),
    Check("host", host.clock),
)
