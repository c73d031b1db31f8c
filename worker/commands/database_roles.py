"""Gives roles of PostgreSQL the privileges that workers or auditors need."""

from collections.abc import Callable

import click
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import ProgrammingError

from worker.db.engine import acquire_advisory_lock, write_transaction
from worker.db.retention.roles import (
    RoleUnusable,
    check_role,
    reader_privileges,
    remaining_privileges,
    worker_privileges,
)

_OPTIONS: dict[str, Callable[[Connection, str], list[str]]] = {
    "--grant-to": worker_privileges,
    "--grant-read-to": reader_privileges,
}


def refuse_roles(roles: dict[str, str], dialect: str) -> None:
    """Raise click.UsageError if roles cannot be given privileges. roles are those by option."""
    if roles and dialect != "postgresql":
        options = " and ".join(roles)
        raise click.UsageError(f"{options}: SQLite has no roles; the file's mode protects it")
    if len(roles) > len(set(roles.values())):
        raise click.UsageError("--grant-to and --grant-read-to name the same role: use two")


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
    try:
        check_role(connection, role)
    except RoleUnusable as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    for statement in _OPTIONS[option](connection, role):
        try:
            connection.exec_driver_sql(statement)
        except ProgrammingError:
            text = "only the owner of the tables can do this: connect as the owner"
            raise click.ClickException(f"{option}: {text}.") from None
        click.echo(f"{statement};")
    for privilege in remaining_privileges(connection, role):
        text = f"{role} keeps {privilege}, from PUBLIC or from a role of which it is a member"
        click.secho(f"WARNING: {text}.", fg="yellow", err=True)
