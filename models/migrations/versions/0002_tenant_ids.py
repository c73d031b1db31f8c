"""Ids of tenants, so that a tenant does not inherit the rows of a removed one of the same name.

The id of each existing and removed tenant is its name, which its rows contain already.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002_tenant_ids"
down_revision = "0001_first_tables"
branch_labels = None
depends_on = None

# Tables with a primary key or an index that begins with the tenant. Each name is found by one
# search in it: reading all rows of a large audit log would take too long.
_LARGE_TABLES = ("batches", "cancellations", "usage")
_NAMES = """
    WITH RECURSIVE names (tenant) AS (
        SELECT MIN(tenant) FROM {table}
        UNION ALL
        SELECT (SELECT MIN(tenant) FROM {table} WHERE tenant > names.tenant)
        FROM names WHERE names.tenant IS NOT NULL
    )
    SELECT tenant FROM names WHERE tenant IS NOT NULL
"""
_SMALL_TABLES = (
    "SELECT name FROM tenants",
    "SELECT tenant FROM quota_overrides",
    "SELECT tenant FROM rejections WHERE tenant <> ''",
)


def upgrade() -> None:
    op.create_table(
        "tenant_identities",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenant_identities")),
    )
    op.create_index(op.f("ix_tenant_identities_name"), "tenant_identities", ["name"])
    _insert_identities()
    _freeze()
    # Last, because it locks the table.
    op.add_column("tenants", sa.Column("id", sa.String(length=63), nullable=True))
    op.execute("UPDATE tenants SET id = name")
    op.create_index(op.f("ix_tenants_id"), "tenants", ["id"], unique=True)


def _insert_identities() -> None:
    connection = op.get_bind()
    queries = (*_SMALL_TABLES, *(_NAMES.format(table=table) for table in _LARGE_TABLES))
    ids = {id_ for query in queries for id_ in connection.scalars(sa.text(query))}
    # No name has a tilde. An id has one if this migration was reverted.
    rows = [{"id": id_, "name": id_.partition("~")[0]} for id_ in sorted(ids)]
    if rows:
        statement = sa.text("INSERT INTO tenant_identities (id, name) VALUES (:id, :name)")
        connection.execute(statement, rows)


def _freeze() -> None:
    """Have the database refuse to change or remove identities: an id is never used again."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tenant_identities "
            "FOR EACH STATEMENT EXECUTE FUNCTION valetkey_append_only()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER tenant_identities_no_{verb.lower()} BEFORE {verb} "
            "ON tenant_identities "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
        )


def downgrade() -> None:
    op.drop_index(op.f("ix_tenants_id"), "tenants")
    op.drop_column("tenants", "id")
    op.drop_table("tenant_identities")
