"""Create all tables.

Until 0.1.0 is released, change this migration in place and raise the number at the end of its id:
a database with another id of the first migration is refused. Afterwards, add a migration instead.
"""

from alembic import op

from models.migrations.initial.audit_tables import AUDIT_TABLES
from models.migrations.initial.columns import is_postgres
from models.migrations.initial.config_tables import CONFIG_TABLES
from models.migrations.initial.partitions import create_partitions
from models.migrations.initial.triggers import create_triggers, drop_functions
from models.migrations.initial.work_tables import WORK_TABLES

revision = "0001_tables_3"
down_revision = None
branch_labels = None
depends_on = None

TABLES = {**CONFIG_TABLES, **AUDIT_TABLES, **WORK_TABLES}


def upgrade() -> None:
    for create_table in TABLES.values():
        create_table()
    if is_postgres():
        create_partitions()
    create_triggers()


def downgrade() -> None:
    drop_functions()
    for table in reversed(TABLES):
        op.drop_table(table)
