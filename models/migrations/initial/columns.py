"""Types and columns that several of the first tables have."""

import sqlalchemy as sa
from alembic import op

# SQLite generates numbers only for a column that is declared as INTEGER.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def batch_number(table: str) -> sa.Column[int]:
    """Return a table's column that refers to a batch."""
    batch = sa.ForeignKey("batches.batch_number", name=f"fk_{table}_batch_number")
    return sa.Column("batch_number", NUMBER, batch, autoincrement=False, nullable=False)


def create_partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
