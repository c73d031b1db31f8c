import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from worker.aws.clients import S3Clients
from worker.clock import now
from worker.commands import database
from worker.commands.database import open_database
from worker.core.apply.diff import FieldChange
from worker.core.apply.plan import ApplyPlan, ConfigWarning, InUse, Removal, plan_apply
from worker.core.tenants.config import TenantConfig
from worker.db import reservations
from worker.db.audit import changes
from worker.db.audit.backlog import pending_webhooks
from worker.db.engine import read_transaction, write_transaction
from worker.db.tenants import load_config, store_config
from worker.errors import Malformed, Transient
from worker.settings import Settings
from worker.usecases.tenants_file import FileProblem, read_tenants_file


@click.command()
@click.argument(
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default="tenants.toml",
)
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
def apply(file: Path, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Declare tenants, their keys, policies and quotas, and buckets as they stand in FILE.

    Shows the difference first, and asks where there is a terminal to ask on. Where there is none,
    --yes is needed to remove a tenant, to remove or revoke a key that has live grants, and to
    remove an endpoint that has webhooks to come. Says every time which tenants trust the queue, and
    whose keys have expired or will within 30 days.

    What FILE does not name is removed; the audit log and what tenants have used stay. What was
    changed, when and by which account is listed by `audit changes`.

    FILE is tenants.toml where none is given. examples/tenants.toml is a commented one.

    \b
    Example:
      python -m worker apply examples/tenants.toml --dry-run
    """
    after = _read(file)
    with open_database(read_transaction) as connection:
        before = load_config(connection)
        under_way = InUse(reservations.live_grants(connection, now()), pending_webhooks(connection))
    planned = plan_apply(before, after, under_way, now())
    if not as_json:
        _show(planned.changes)
    _warn(planned.risks)
    _name(planned.losses)
    if planned.changes and not dry_run:
        _agree(planned.losses, yes=yes)
        _apply(before, after, planned.changes)
    _close(planned, applied=bool(planned.changes) and not dry_run, as_json=as_json)


def _read(file: Path) -> TenantConfig:
    settings = Settings()
    declared = read_tenants_file(
        file, development=settings.development, endpoint=settings.s3_endpoint
    )
    problems = list(_unsignable(declared)) if isinstance(declared, TenantConfig) else declared
    if isinstance(declared, TenantConfig) and not problems:
        return declared
    for problem in problems:
        click.echo(_text(file, problem), err=True)
    raise click.ClickException(f"{file} was not applied.")


def _unsignable(declared: TenantConfig) -> Iterator[FileProblem]:
    s3 = S3Clients(Settings().s3_endpoint)
    for name, bucket in declared.buckets.items():
        try:
            s3.target(bucket)
        except Malformed as error:
            yield FileProblem(f"buckets.{name}", None, str(error), None)
        except Transient:
            pass  # an AWS profile that only the workers have: they will say so


def _text(file: Path, problem: FileProblem) -> str:
    place = f"{file}:{problem.line}" if problem.line else str(file)
    named = f"{problem.path}: " if problem.path else ""
    return f"{place}: {named}{problem.message}" + (f" ({problem.hint})" if problem.hint else "")


def _show(found: list[FieldChange]) -> None:
    colours = {"+": "green", "-": "red", "~": "yellow"}
    for line in map(str, found):
        click.secho(line, fg=colours[line[0]])


def _warn(found: list[ConfigWarning]) -> None:
    for risk in found:
        click.secho(f"WARNING: {risk.message} ({risk.hint})", fg="yellow", bold=True, err=True)


def _name(lost: list[Removal]) -> None:
    if not lost:
        return
    click.secho("This takes away:", fg="red", bold=True, err=True)
    for loss in lost:
        click.echo(f"  {loss}", err=True)
    click.echo("Links that are out work until they lapse; pending webhooks are not sent.", err=True)


def _agree(lost: list[Removal], *, yes: bool) -> None:
    if yes:
        return
    if sys.stdin.isatty():
        click.confirm("Apply this?", abort=True, err=True)
    elif lost:
        raise click.ClickException(
            "This takes something away, and there is no terminal to ask on: give --yes."
        )


def _apply(before: TenantConfig, after: TenantConfig, found: list[FieldChange]) -> None:
    with open_database(write_transaction) as connection:
        store_config(connection, before, after)
        changes.record_changes(
            connection, found, changes.ChangeAuthor(now(), database.operator_account(), "apply")
        )


def _close(planned: ApplyPlan, *, applied: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(planned.as_json() | {"applied": applied}, indent=2))
    elif not planned.changes:
        click.echo("Nothing to change.")
    else:
        click.echo("Applied." if applied else "Nothing was changed: this was a dry run.")
