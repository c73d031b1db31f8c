"""Create all tables.

Until 0.1.0 is released, this migration creates the tables that the models describe. Raise the
number at the end of its id with each change of them: a database with another id of the first
migration is refused. The release freezes it (CONTRIBUTING.md); afterwards, add a migration instead.
"""

from alembic import op
from sqlalchemy import Table
from sqlalchemy.schema import CreateIndex, CreateTable

from models import Base
from models.grants import PARTITIONED
from models.migrations.initial.partitions import create_partitions, divided
from models.migrations.initial.triggers import create_triggers, drop_functions, is_postgres

revision = "0001_tables_8"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in Base.metadata.sorted_tables:
        is_divided = table.name == PARTITIONED and is_postgres()
        create_table(divided(table) if is_divided else table)
    if is_postgres():
        create_partitions()
    create_triggers()


def create_table(table: Table) -> None:
    op.execute(CreateTable(table))
    # In the order of their names: of two that serve a query as well, SQLite takes the last one.
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        op.execute(CreateIndex(index))


def downgrade() -> None:
    drop_functions()
    for table in reversed(Base.metadata.sorted_tables):
        op.drop_table(table.name)
