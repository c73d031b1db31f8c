"""The privileges of PostgreSQL roles: of workers, operators and auditors."""

from collections.abc import Iterator

import click
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from models import Base
from models.grants import DEFAULT_PARTITION
from models.schema import APPEND_ONLY
from worker.base.database_engine import acquire_advisory_lock, write_transaction
from worker.feature import Writer
from worker.features import contributions

_GROWING = "tree_heads"
_FUNCTION = "valetkey_add_partition(integer)"


def _tables_of(*writers: Writer) -> list[str]:
    """Return the tables that roles may write. Only the owner of all can remove and erase."""
    return sorted(table for table, writer in contributions("tables").items() if writer in writers)


CONFIG_TABLES = _tables_of("operator")
"""The tables that operators change, and no worker: they decide which requests are granted."""

OPERATORS = "--grant-operators-to"

_TAMPERING = ("UPDATE", "DELETE", "TRUNCATE", "TRIGGER")


def _role_problem(connection: Connection, role: str) -> str | None:
    """Return why a role cannot be limited: it is missing, owns tables, or is a superuser."""
    query = text("SELECT rolsuper FROM pg_roles WHERE rolname = :role")
    is_superuser = connection.scalar(query, {"role": role})
    if is_superuser is None:
        return f"the server has no role {role!r}: create it with CREATE ROLE"
    if is_superuser:
        return f"{role!r} is a superuser, who may change the audit log"
    query = text(
        "SELECT bool_or(pg_has_role(:role, relowner, 'MEMBER')) FROM pg_class"
        " WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(:tables)"
    )
    if connection.scalar(query, {"role": role, "tables": list(APPEND_ONLY)}):
        return (
            f"{role!r} owns the tables, or is a member of their owner, and may drop their triggers:"
            " use a role of its own for the workers"
        )
    return None


def _writable(connection: Connection, name: str, tables: list[str]) -> Iterator[str]:
    """Let a role that reads all tables write some as commands need."""
    growing = [table for table in (*APPEND_ONLY, _GROWING) if table in tables]
    mutable = [table for table in tables if table not in growing]
    yield f"GRANT INSERT ON {', '.join(growing)} TO {name}"
    yield f"GRANT UPDATE ON {_GROWING} TO {name}"
    yield f"GRANT INSERT, UPDATE, DELETE ON {', '.join(mutable)} TO {name}"
    yield f"GRANT USAGE ON SEQUENCE {', '.join(_sequences(connection, tables))} TO {name}"
    yield f"GRANT EXECUTE ON FUNCTION {_FUNCTION} TO {name}"


def _remaining_privileges(connection: Connection, option: str, role: str) -> list[str]:
    """Return the privileges to change the audit log, or the config, that a role has from elsewhere.

    PUBLIC, another role that it is a member of, and direct grants on partitions can give them.
    """
    query = text(
        "SELECT relname, privilege FROM pg_class, unnest(CAST(:privileges AS text[])) AS privilege"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')"
        " AND (relname = ANY(:config) OR privilege <> 'INSERT'"
        " AND (relname = ANY(:tables) OR relname LIKE 'grants\\_%'))"
        " AND has_table_privilege(:role, oid, privilege) ORDER BY relname, privilege"
    )
    params = {"role": role, "tables": list(APPEND_ONLY), "privileges": ["INSERT", *_TAMPERING]}
    config = [] if option == OPERATORS else CONFIG_TABLES
    rows = connection.execute(query, {**params, "config": config})
    return [f"{privilege} ON {table}" for table, privilege in rows]


def quoted(connection: Connection, role: str) -> str:
    """Return the name of a role as an identifier in SQL."""
    return connection.dialect.identifier_preparer.quote_identifier(role)


def _revoked(connection: Connection, name: str) -> Iterator[str]:
    """Yield the statements that revoke what the role was granted before."""
    tables = (*Base.metadata.tables, *_partitions(connection), "alembic_version")
    yield f"REVOKE ALL ON {', '.join(sorted(tables))} FROM {name}"
    sequences = _sequences(connection, _tables_of("worker", "operator"))
    yield f"REVOKE ALL ON SEQUENCE {', '.join(sequences)} FROM {name}"
    yield f"REVOKE ALL ON FUNCTION {_FUNCTION} FROM {name}"


def _readable(connection: Connection, name: str) -> Iterator[str]:
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    yield f"GRANT USAGE ON SCHEMA {schema} TO {name}"
    tables = sorted((*Base.metadata.tables, DEFAULT_PARTITION, "alembic_version"))
    yield f"GRANT SELECT ON {', '.join(tables)} TO {name}"


def _partitions(connection: Connection) -> list[str]:
    query = text(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass('grants')"
    )
    return list(connection.scalars(query))


def _sequences(connection: Connection, tables: list[str]) -> list[str]:
    query = text(
        "SELECT seq.oid::regclass::text FROM pg_class AS seq"
        " JOIN pg_depend ON objid = seq.oid AND deptype IN ('a', 'i')"
        " JOIN pg_class AS owner ON owner.oid = refobjid AND owner.relname = ANY(:tables)"
        " WHERE seq.relkind = 'S' AND owner.relnamespace = current_schema()::regnamespace"
        " ORDER BY 1"
    )
    return list(connection.scalars(query, {"tables": tables}))


def _statements(connection: Connection, option: str, name: str) -> Iterator[str]:
    yield from _revoked(connection, name)
    yield from _readable(connection, name)
    if option == OPERATORS:
        yield from _writable(connection, name, _tables_of("worker", "operator"))
    elif option == "--grant-to":
        yield from _writable(connection, name, _tables_of("worker"))


def refuse_roles(roles: dict[str, str], dialect: str) -> None:
    """Raise click.UsageError if roles cannot be given privileges. roles are those by option."""
    if roles and dialect != "postgresql":
        options = " and ".join(roles)
        raise click.UsageError(f"{options}: SQLite has no roles; the file's mode protects it")
    if len(roles) > len(set(roles.values())):
        raise click.UsageError(f"{' and '.join(roles)} name the same role: use one for each")


def grant_privileges(engine: Engine, roles: dict[str, str]) -> None:
    """Grant and print the privileges of roles, by option; all of them, or none.

    Raises click.BadParameter for a role that does not exist or cannot be limited.
    """
    if not roles:
        return
    with write_transaction(engine) as connection:
        # PostgreSQL fails if two transactions change the privileges of a table at once.
        acquire_advisory_lock(connection, "privileges")
        for option, role in roles.items():
            _grant(connection, option, role)


def _grant(connection: Connection, option: str, role: str) -> None:
    problem = _role_problem(connection, role)
    if problem is not None:
        raise click.BadParameter(problem, param_hint=option)
    for statement in _statements(connection, option, quoted(connection, role)):
        try:
            connection.exec_driver_sql(statement)
        except ProgrammingError:
            text = "only the owner of the tables can do this: connect as the owner"
            raise click.ClickException(f"{option}: {text}.") from None
        click.echo(f"{statement};")
    for privilege in _remaining_privileges(connection, option, role):
        text = f"{role} keeps {privilege}, from PUBLIC or from a role that it is a member of"
        click.secho(f"WARNING: {text}.", fg="yellow", err=True)
