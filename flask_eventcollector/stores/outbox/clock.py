"""The database's clock, so that the clocks of the processes do not matter."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now_ms(FunctionElement[int]):
    """When the statement began: milliseconds since 1970, in UTC."""

    name = "now_ms"
    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "postgresql")
def _in_postgresql(*_: Any, **__: Any) -> str:
    # now() is the transaction's beginning, and clock_timestamp() uses no index.
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)"


@compiles(now_ms, "mysql", "mariadb")
def _in_mysql(*_: Any, **__: Any) -> str:
    # Not UNIX_TIMESTAMP(NOW(3)): local time is ambiguous for an hour in autumn.
    since = "'1970-01-01 00:00:00', UTC_TIMESTAMP(3)"
    return f"(TIMESTAMPDIFF(MICROSECOND, {since}) DIV 1000)"


@compiles(now_ms, "sqlite")
def _in_sqlite(*_: Any, **__: Any) -> str:
    # 2440587.5 is the Julian day on which 1970 began.
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
