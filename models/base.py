from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite generates numbers only for a column that is declared as INTEGER.
NUMBER = BigInteger().with_variant(Integer, "sqlite")


def partial_index(name: str, condition: str, *columns: str) -> Index:
    """Return an index of the rows that meet a condition, which has no parameters."""
    where = text(condition)
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


class Instant(TypeDecorator[datetime]):
    """A time in UTC. Raises ValueError for a naive datetime, and never returns one.

    SQLite has no time zones, so there UTC is stored without one.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime stored in a table needs a time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The base of all tables, with constraint names that migrations can rely on."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {datetime: Instant}  # noqa: RUF012 - SQLAlchemy's own hook


class AppendOnly(Base):
    """The base of the tables of the audit log. Triggers refuse to change or remove their rows."""

    __abstract__ = True
