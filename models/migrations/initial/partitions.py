"""Divide `grants` by month on PostgreSQL, and create the function that adds a month's partition."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

DECEMBER = 12

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


def month_column() -> list[sa.Column[int]]:
    """Return the column of `grants` that decides the partition of a row. SQLite has none."""
    if op.get_bind().dialect.name != "postgresql":
        return []
    # For rows that are inserted through the model, which has no such column.
    default = sa.text("CAST(to_char(now() AT TIME ZONE 'UTC', 'YYYYMM') AS integer)")
    return [sa.Column("month", sa.Integer(), server_default=default, nullable=False)]


def create_partitions() -> None:
    """Create the first partition, which ends with this month, and the default one."""
    now = datetime.now(UTC)
    month = now.year * 100 + now.month
    end = month + 1 if now.month < DECEMBER else month + 89
    op.execute(
        f"CREATE TABLE grants_first PARTITION OF grants FOR VALUES FROM (MINVALUE) TO ({end})"
    )
    op.execute("CREATE TABLE grants_default PARTITION OF grants DEFAULT")
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(ADD_PARTITION.replace("SCHEMA", schema))
    op.execute("REVOKE ALL ON FUNCTION valetkey_add_partition(integer) FROM PUBLIC")
