"""Add the version of the newest known object, which the deletion of another version leaves.

Workers of the previous release go on: they record no uses.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015_object_versions"
down_revision = "0014_settling"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("stored_objects", sa.Column("version", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("stored_objects", "version")
