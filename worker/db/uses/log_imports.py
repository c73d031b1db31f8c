"""Reads and writes how much of each access log was imported."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select

from models import LogImport
from worker.db.inserts import insert_statement


class ImportedPart(NamedTuple):
    """The part of an access log that was imported: its mark, and the bytes from its start."""

    mark: str
    position: int
    is_complete: bool = False


NOTHING = ImportedPart("", 0)


def read_imported(connection: Connection, source: str) -> ImportedPart:
    """Return how much of a log was imported, NOTHING if it is new."""
    query = select(LogImport.mark, LogImport.position, LogImport.is_complete)
    row = connection.execute(query.where(LogImport.source == source)).first()
    return NOTHING if row is None else ImportedPart(*row)


def write_imported(connection: Connection, source: str, part: ImportedPart, now: datetime) -> None:
    """Store how much of a log was imported."""
    statement = insert_statement(LogImport, connection.dialect.name)
    values = {"source": source, **part._asdict(), "imported_at": now}
    set_ = {name: statement.excluded[name] for name in values if name != "source"}
    connection.execute(
        statement.on_conflict_do_update(index_elements=["source"], set_=set_), values
    )
