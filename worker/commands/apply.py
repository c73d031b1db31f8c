import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from worker.adapters import account, changes, holds
from worker.adapters.backlog import pending_webhooks
from worker.adapters.clock import now
from worker.adapters.database import reading, writing
from worker.adapters.declarations import load, store
from worker.adapters.s3 import S3
from worker.commands.opened import opened
from worker.core.difference import Change
from worker.core.losses import Loss, UnderWay
from worker.core.planning import Plan, plan
from worker.core.risks import Risk
from worker.core.tenancy import Declared
from worker.declared import Problem, read
from worker.errors import Malformed, Transient
from worker.settings import Settings


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
    with opened(reading) as connection:
        before = load(connection)
        under_way = UnderWay(holds.live(connection, now()), pending_webhooks(connection))
    planned = plan(before, after, under_way, now())
    if not as_json:
        _show(planned.changes)
    _warn(planned.risks)
    _name(planned.losses)
    if planned.changes and not dry_run:
        _agree(planned.losses, yes=yes)
        _apply(before, after, planned.changes)
    _close(planned, applied=bool(planned.changes) and not dry_run, as_json=as_json)


def _read(file: Path) -> Declared:
    settings = Settings()
    declared = read(file, development=settings.development, endpoint=settings.s3_endpoint)
    problems = list(_unsignable(declared)) if isinstance(declared, Declared) else declared
    if isinstance(declared, Declared) and not problems:
        return declared
    for problem in problems:
        click.echo(_text(file, problem), err=True)
    raise click.ClickException(f"{file} was not applied.")


def _unsignable(declared: Declared) -> Iterator[Problem]:
    s3 = S3(Settings().s3_endpoint)
    for name, bucket in declared.buckets.items():
        try:
            s3.target(bucket)
        except Malformed as error:
            yield Problem(f"buckets.{name}", None, str(error), None)
        except Transient:
            pass  # an AWS profile that only the workers have: they will say so


def _text(file: Path, problem: Problem) -> str:
    place = f"{file}:{problem.line}" if problem.line else str(file)
    named = f"{problem.path}: " if problem.path else ""
    return f"{place}: {named}{problem.message}" + (f" ({problem.hint})" if problem.hint else "")


def _show(found: list[Change]) -> None:
    colours = {"+": "green", "-": "red", "~": "yellow"}
    for line in map(str, found):
        click.secho(line, fg=colours[line[0]])


def _warn(found: list[Risk]) -> None:
    for risk in found:
        click.secho(f"WARNING: {risk.message} ({risk.hint})", fg="yellow", bold=True, err=True)


def _name(lost: list[Loss]) -> None:
    if not lost:
        return
    click.secho("This takes away:", fg="red", bold=True, err=True)
    for loss in lost:
        click.echo(f"  {loss}", err=True)
    click.echo("Links that are out work until they lapse; pending webhooks are not sent.", err=True)


def _agree(lost: list[Loss], *, yes: bool) -> None:
    if yes:
        return
    if sys.stdin.isatty():
        click.confirm("Apply this?", abort=True, err=True)
    elif lost:
        raise click.ClickException(
            "This takes something away, and there is no terminal to ask on: give --yes."
        )


def _apply(before: Declared, after: Declared, found: list[Change]) -> None:
    with opened(writing) as connection:
        store(connection, before, after)
        changes.record(connection, found, changes.Author(now(), account.operator(), "apply"))


def _close(planned: Plan, *, applied: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(planned.as_json() | {"applied": applied}, indent=2))
    elif not planned.changes:
        click.echo("Nothing to change.")
    else:
        click.echo("Applied." if applied else "Nothing was changed: this was a dry run.")
