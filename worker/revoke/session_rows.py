"""The rows of roles whose sessions were ended."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, select

from models import EndedSessions
from worker.base.inserts import insert_statement


class EndedSessionsRow(NamedTuple):
    """A role whose sessions from before a time were ended.

    bucket is the bucket profile whose credentials changed the role. At lapses_at, all of these
    sessions would have ended.
    """

    role_arn: str
    sessions_from: datetime
    bucket: str
    lapses_at: datetime


def store_ended_sessions(connection: Connection, row: EndedSessionsRow) -> EndedSessionsRow:
    """Store a role's time, and return the row that is stored now: the latest time wins.

    Call `increment_revision` first, so that every worker reads it before its next grant.
    """
    columns = EndedSessions.sessions_from, EndedSessions.bucket, EndedSessions.lapses_at
    query = select(*columns).where(EndedSessions.role_arn == row.role_arn)
    stored = connection.execute(query).one_or_none()
    if stored is not None and stored.sessions_from >= row.sessions_from:
        return EndedSessionsRow(row.role_arn, *stored)
    values = row._asdict()
    statement = insert_statement(EndedSessions, connection.dialect.name).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=["role_arn"], set_=values))
    return row


def read_ended_sessions(connection: Connection) -> list[EndedSessionsRow]:
    """Return all roles whose sessions were ended."""
    columns = (getattr(EndedSessions, name) for name in EndedSessionsRow._fields)
    query = select(*columns).order_by(EndedSessions.role_arn)
    return [EndedSessionsRow(*row) for row in connection.execute(query)]


def delete_ended_sessions(connection: Connection, row: EndedSessionsRow) -> None:
    """Delete the row of a removed policy, unless a later time was stored meanwhile."""
    connection.execute(
        delete(EndedSessions).where(
            EndedSessions.role_arn == row.role_arn, EndedSessions.sessions_from == row.sessions_from
        )
    )


def read_sessions_from(connection: Connection) -> dict[str, datetime]:
    """Return the times from which sessions of roles are valid, by role."""
    return {row.role_arn: row.sessions_from for row in read_ended_sessions(connection)}
