"""Partition the grants by month on PostgreSQL, record prunes, and close gaps of the triggers.

The previous release still writes grants without their month: the database computes it. The table
of grants becomes the first partition, with all rows that exist. It is not written again. Workers
wait for a moment, while the table is exchanged; building its new index, one to two seconds for a
million rows, does not stop them.

SQLite has no partitions, and its table of grants stays as it is.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0007_partitions"
down_revision = "0006_trees"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DECEMBER = 12
KEY = "batch_number, item_number, month"
MONTH = "CAST(to_char(now() AT TIME ZONE 'UTC', 'YYYYMM') AS integer)"

# INSERT OR REPLACE deletes rows without firing DELETE triggers. These conditions find the rows that
# a new one would replace. `grants` is not among them: a search for each item made issuing
# slower by up to a tenth. There, PRAGMA recursive_triggers fires the DELETE trigger.
REPLACED = {
    "batches": "batch_number = NEW.batch_number"
    " OR (tenant = NEW.tenant AND batch_id = NEW.batch_id)",
    "chunks": "batch_number = NEW.batch_number AND chunk_number = NEW.chunk_number",
    "config_changes": "change_number = NEW.change_number",
    "leaves": "tenant = NEW.tenant AND leaf_number = NEW.leaf_number",
    "prunes": "prune_number = NEW.prune_number",
}
# The service inserts these with ON CONFLICT DO NOTHING, which the trigger must not turn into a
# failure. It ignores the new row.
IGNORED = {
    "reissues": "batch_number = NEW.batch_number AND chunk_number = NEW.chunk_number"
    " AND fingerprint = NEW.fingerprint",
    "cancellations": "tenant = NEW.tenant AND batch_id = NEW.batch_id",
    "checkpoints": "tenant = NEW.tenant AND size = NEW.size",
    "tenant_identities": "id = NEW.id",
    "tree_heads": "tenant = NEW.tenant",
}

# With this function, a role that owns no table creates the partition of a month. It returns false
# if there is one. Rows of the month in the default partition move to the new one. It waits for
# locks for a moment only, because reads of all grants wait behind it.
ADD_PARTITION = """
    CREATE FUNCTION valetkey_add_partition(month integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
    DECLARE
        name text := format('grants_%s_%s', month / 100, lpad((month % 100)::text, 2, '0'));
        next_month integer := CASE WHEN month % 100 = 12 THEN month + 89 ELSE month + 1 END;
        last_month integer := to_char(now() AT TIME ZONE 'UTC' + interval '1 year', 'YYYYMM');
    BEGIN
        IF month IS NULL OR month % 100 NOT BETWEEN 1 AND 12
            OR month NOT BETWEEN 200001 AND last_month
        THEN
            RAISE EXCEPTION 'no month between 200001 and %: %', last_month, month;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('valetkey_add_partition', 0));
        IF to_regclass(format('SCHEMA.%I', name)) IS NOT NULL THEN
            RETURN false;
        END IF;
        EXECUTE format('CREATE TABLE SCHEMA.%I (LIKE SCHEMA.grants INCLUDING ALL)', name);
        LOCK TABLE SCHEMA.grants_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format(
            'INSERT INTO SCHEMA.%I SELECT * FROM SCHEMA.grants_default WHERE month = $1', name
        ) USING month;
        ALTER TABLE SCHEMA.grants_default DISABLE TRIGGER append_only;
        EXECUTE 'DELETE FROM SCHEMA.grants_default WHERE month = $1' USING month;
        ALTER TABLE SCHEMA.grants_default ENABLE TRIGGER append_only;
        EXECUTE format(
            'ALTER TABLE SCHEMA.grants ATTACH PARTITION SCHEMA.%I FOR VALUES FROM (%s) TO (%s)',
            name, month, next_month
        );
        EXECUTE format(
            'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON SCHEMA.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION SCHEMA.valetkey_append_only()', name
        );
        RETURN true;
    END $$
"""
COPY_PRIVILEGES = """DO $$ DECLARE item record; BEGIN
    FOR item IN SELECT privilege_type, is_grantable,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS name
        FROM pg_class, aclexplode(relacl)
        WHERE pg_class.oid = 'SOURCE'::regclass AND grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON TARGET TO %s', item.privilege_type, item.name)
            || CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP; END $$
"""


def upgrade() -> None:
    is_postgres = op.get_bind().dialect.name == "postgresql"
    if is_postgres:
        end = _prepare()  # it commits, so what cannot be repeated comes after it
    op.create_table(
        "prunes",
        sa.Column("prune_number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("before", sa.String(length=7), nullable=False),
        sa.Column("pruned_by", sa.String(length=200), nullable=False),
        sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("prune_number", name=op.f("pk_prunes")),
    )
    if is_postgres:
        op.execute(freeze("prunes"))
        _let_tree_heads_only_grow()
        _partition(end)
        return
    for statement in _sqlite_triggers():
        op.execute(statement)


def freeze(table: str) -> str:
    """Return the statement that has PostgreSQL refuse to change or remove rows of a table."""
    return (
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION valetkey_append_only()"
    )


def _sqlite_triggers() -> list[str]:
    refuse = "BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
    statements = [
        f"CREATE TRIGGER prunes_no_{verb.lower()} BEFORE {verb} ON prunes {refuse}"
        for verb in ("UPDATE", "DELETE")
    ]
    ignore = "BEGIN SELECT RAISE(IGNORE); END"
    for tables, action in ((REPLACED, refuse), (IGNORED, ignore)):
        for table, condition in tables.items():
            exists = f"EXISTS (SELECT 1 FROM {table} WHERE {condition})"  # noqa: S608 - constants
            trigger = f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}"
            statements.append(f"{trigger} WHEN {exists} {action}")
    shrink = "BEGIN SELECT RAISE(ABORT, 'a tree only grows'); END"
    is_smaller = "NEW.tenant <> OLD.tenant OR NEW.size <= OLD.size"
    statements += [
        f"CREATE TRIGGER tree_heads_grow BEFORE UPDATE ON tree_heads WHEN {is_smaller} {shrink}",
        f"CREATE TRIGGER tree_heads_no_delete BEFORE DELETE ON tree_heads {shrink}",
    ]
    return statements


def _let_tree_heads_only_grow() -> None:
    op.execute(
        "CREATE FUNCTION valetkey_tree_grows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF TG_OP = 'UPDATE' AND NEW.tenant = OLD.tenant AND NEW.size > OLD.size THEN "
        "RETURN NEW; END IF; "
        "RAISE EXCEPTION 'a tree only grows'; END $$"
    )
    op.execute(
        "CREATE TRIGGER only_grows BEFORE UPDATE OR DELETE ON tree_heads "
        "FOR EACH ROW EXECUTE FUNCTION valetkey_tree_grows()"
    )
    op.execute(
        "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON tree_heads "
        "FOR EACH STATEMENT EXECUTE FUNCTION valetkey_append_only()"
    )


def _prepare() -> int:
    """Prepare the table for being a partition; return the month after its last.

    An earlier attempt may have stopped half way.
    """
    now = datetime.now(UTC)
    month = now.year * 100 + now.month
    end = month + 1 if now.month < DECEMBER else month + 89
    # A constant default rewrites no rows.
    op.execute(
        f"ALTER TABLE grants ADD COLUMN IF NOT EXISTS month integer NOT NULL DEFAULT {month}"
    )
    if op.get_bind().scalar(sa.text("SELECT EXISTS (SELECT 1 FROM grants)")):
        _build_index(end)
    else:
        op.execute("DROP INDEX IF EXISTS pk_grants_first")
        op.execute(f"CREATE UNIQUE INDEX pk_grants_first ON grants ({KEY})")
    return end


def _partition(end: int) -> None:
    op.execute("LOCK TABLE grants IN ACCESS EXCLUSIVE MODE")
    op.execute("ALTER TABLE grants RENAME TO grants_first")
    op.execute("ALTER TABLE grants_first DROP CONSTRAINT pk_grants")
    op.execute(
        "ALTER TABLE grants_first ADD CONSTRAINT pk_grants_first"
        " PRIMARY KEY USING INDEX pk_grants_first"
    )
    op.execute("CREATE TABLE grants (LIKE grants_first) PARTITION BY RANGE (month)")
    op.execute(f"ALTER TABLE grants ADD CONSTRAINT pk_grants PRIMARY KEY ({KEY})")
    op.execute(f"ALTER TABLE grants ALTER month SET DEFAULT {MONTH}")
    _copy_privileges("grants_first", "grants")
    op.execute(
        f"ALTER TABLE grants ATTACH PARTITION grants_first FOR VALUES FROM (MINVALUE) TO ({end})"
    )
    op.execute("ALTER TABLE grants_first DROP CONSTRAINT IF EXISTS ck_grants_first")
    op.execute("CREATE TABLE grants_default PARTITION OF grants DEFAULT")
    _copy_privileges("grants", "grants_default")  # workers look for rows in it
    for table in ("grants", "grants_default"):  # the first partition has its trigger already
        op.execute(freeze(table))
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(ADD_PARTITION.replace("SCHEMA", schema))
    op.execute("REVOKE ALL ON FUNCTION valetkey_add_partition(integer) FROM PUBLIC")


def _build_index(end: int) -> None:
    """Build the index and check the rows, while workers go on writing."""
    check = f"CONSTRAINT ck_grants_first CHECK (month < {end})"
    with op.get_context().autocommit_block():
        engine = op.get_bind().engine
        with engine.connect().execution_options(purpose="autocommit") as connection:
            connection.detach()  # it is closed, because it waits for locks without a limit
            for statement in (
                "SET lock_timeout = 0",
                "DROP INDEX CONCURRENTLY IF EXISTS pk_grants_first",
                f"CREATE UNIQUE INDEX CONCURRENTLY pk_grants_first ON grants ({KEY})",
                "ALTER TABLE grants DROP CONSTRAINT IF EXISTS ck_grants_first",
                # With this constraint, attaching the partition reads no rows.
                f"ALTER TABLE grants ADD {check} NOT VALID",
                "ALTER TABLE grants VALIDATE CONSTRAINT ck_grants_first",
            ):
                connection.exec_driver_sql(statement)


def _copy_privileges(source: str, target: str) -> None:
    op.execute(COPY_PRIVILEGES.replace("SOURCE", source).replace("TARGET", target))


def downgrade() -> None:
    # The previous release has no prunes: what was pruned looks lost to it.
    op.drop_table("prunes")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION valetkey_tree_grows() CASCADE")
        op.execute("DROP TRIGGER no_truncate ON tree_heads")
        _merge()
        return
    for table in (*REPLACED, *IGNORED):
        op.execute(f"DROP TRIGGER IF EXISTS {table}_no_replace")
    for trigger in ("tree_heads_grow", "tree_heads_no_delete"):
        op.execute(f"DROP TRIGGER {trigger}")


def _merge() -> None:
    """Copy all partitions into one table, while workers wait."""
    columns = "batch_number, item_number, object_key, code, detail, digest"
    op.execute("LOCK TABLE grants IN ACCESS EXCLUSIVE MODE")
    op.execute("DROP FUNCTION valetkey_add_partition(integer)")
    op.execute("CREATE TABLE grants_merged (LIKE grants)")
    op.execute("ALTER TABLE grants_merged DROP COLUMN month")
    op.execute(f"INSERT INTO grants_merged ({columns}) SELECT {columns} FROM grants")  # noqa: S608 - constants
    _copy_privileges("grants", "grants_merged")
    op.execute("DROP TABLE grants")
    op.execute("ALTER TABLE grants_merged RENAME TO grants")
    op.execute(
        "ALTER TABLE grants ADD CONSTRAINT pk_grants PRIMARY KEY (batch_number, item_number)"
    )
    op.execute(freeze("grants"))
