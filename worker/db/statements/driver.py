"""Statements that go to the driver unchanged.

For a statement of a few rows, SQLAlchemy's own work takes several times as long as the driver's.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Insert, Select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import UpdateBase

_Convert = Callable[[Any], Any]
_Parameters = Sequence[Any] | Mapping[str, Any]


def execute_in_driver(connection: Connection, statement: str, values: _Parameters = ()) -> Any:
    """Run a statement in the driver's language, in the connection's transaction.

    Returns the driver's cursor. Raises SQLAlchemy's IntegrityError, and otherwise the driver's own
    errors, which the functions of worker.db.engine translate.
    """
    try:
        return run_in_driver(connection.connection.driver_connection, statement, values)
    except connection.dialect.loaded_dbapi.IntegrityError as error:
        raise IntegrityError(statement, None, error, hide_parameters=True) from error


def run_in_driver(driver: Any, statement: str, values: _Parameters = ()) -> Any:
    """Run a statement on a connection of the driver, and return the driver's cursor."""
    return driver.execute(statement, values) if values else driver.execute(statement)


class DriverStatement:
    """A statement of SQLAlchemy that is compiled once for each dialect, and then run by the driver.

    Parameters and results are converted as the types of their columns say.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]] | UpdateBase) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """Run the statement with these parameters, and return its rows as named tuples.

        The names of the parameters are the same in every call.
        """
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = _compile(self._statement, connection.dialect, values)
            self._compiled[connection.dialect.name] = compiled
        cursor = execute_in_driver(connection, compiled.text, compiled.parameters(values))
        return compiled.rows(cursor)


class _Compiled(NamedTuple):
    text: str
    names: Sequence[str] | None
    fixed: Mapping[str, Any]
    bind: Mapping[str, _Convert]
    row: Callable[[Any], Any] | None
    read: Sequence[tuple[int, _Convert]]

    def parameters(self, values: Mapping[str, Any]) -> _Parameters:
        named = {**self.fixed, **values}
        for name, convert in self.bind.items():
            named[name] = convert(named[name])
        return named if self.names is None else [named[name] for name in self.names]

    def rows(self, cursor: Any) -> list[Any]:
        return [] if self.row is None else [self.row(self._converted(row)) for row in cursor]

    def _converted(self, row: Sequence[Any]) -> Sequence[Any]:
        values = list(row)
        for index, convert in self.read:
            values[index] = convert(values[index])
        return values


def _compile(
    statement: Select[*tuple[Any, ...]] | UpdateBase, dialect: Dialect, values: Mapping[str, Any]
) -> _Compiled:
    # An INSERT names its columns by its parameters.
    names = list(values) if isinstance(statement, Insert) and statement.select is None else None
    compiled: Any = statement.compile(dialect=dialect, column_keys=names)
    types = {name: bind.type for name, bind in compiled.binds.items()}
    binds = {
        name: type_.dialect_impl(dialect).bind_processor(dialect) for name, type_ in types.items()
    }
    columns = statement.exported_columns
    row: Any = namedtuple("Row", [column.key for column in columns])  # type: ignore[misc]  # noqa: PYI024 - its fields vary
    reads = [
        column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns
    ]
    return _Compiled(
        text=str(compiled),
        names=compiled.positiontup if compiled.positional else None,
        fixed={name: bind.value for name, bind in compiled.binds.items() if not bind.required},
        bind={name: convert for name, convert in binds.items() if convert is not None},
        row=row._make if len(columns) else None,
        read=[(index, convert) for index, convert in enumerate(reads) if convert is not None],
    )
