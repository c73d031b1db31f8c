"""The SQL function that counts the seconds of a moment since 1970."""

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction


class seconds_since_epoch(GenericFunction[int]):  # noqa: N801 - the name of an SQL function
    """The number of whole seconds from 1970-01-01 in UTC to a moment in a column."""

    type = BigInteger()
    inherit_cache = True


@compiles(seconds_since_epoch, "sqlite")
def _compile_sqlite(function: seconds_since_epoch, compiler: SQLCompiler, **options: Any) -> str:
    moment = compiler.process(function.clauses, **options)
    # Without the fraction, which strftime rounds: 59.9996 seconds would be the next minute.
    return f"CAST(strftime('%s', substr({moment}, 1, 19)) AS INTEGER)"


@compiles(seconds_since_epoch, "postgresql")
def _compile_postgresql(
    function: seconds_since_epoch, compiler: SQLCompiler, **options: Any
) -> str:
    moment = compiler.process(function.clauses, **options)
    return f"CAST(floor(extract(epoch FROM {moment})) AS BIGINT)"
