"""The outbox's table, for the application's own metadata and migrations.

Needs SQLAlchemy, which the extra ``sqlalchemy`` of Flask-EventCollector brings.
"""

from __future__ import annotations

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - only to say what is missing
except ImportError as error:
    raise ImportError(
        "The outbox needs SQLAlchemy: install flask-eventcollector[sqlalchemy]"
    ) from error

from .stores.outbox.table import autovacuum_ddl, make_outbox_table

__all__ = ["autovacuum_ddl", "make_outbox_table"]
