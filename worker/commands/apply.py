import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from worker.adapters.database import reading, writing
from worker.adapters.declarations import load, store
from worker.adapters.s3 import S3
from worker.commands.opened import opened
from worker.core.difference import Change, difference, newly_unsigned, removed_tenants
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
    """Declare tenants, buckets, policies, quotas and endpoints as they stand in FILE.

    Shows the difference first, and asks where there is a terminal to ask on. Where there is none,
    only the removal of a tenant needs --yes. What FILE does not name is removed; the audit log and
    what tenants have used stay.

    FILE is tenants.toml where none is given. examples/tenants.toml is a commented one.

    \b
    Example:
      python -m worker apply examples/tenants.toml --dry-run
    """
    after = _read(file)
    with opened(reading) as connection:
        before = load(connection)
    changes = difference(before, after)
    if not as_json:
        _show(changes, newly_unsigned(before, after))
    if changes and not dry_run:
        _agree(removed_tenants(before, after), yes=yes)
        with opened(writing) as connection:
            store(connection, before, after)
    _close(changes, applied=bool(changes) and not dry_run, as_json=as_json)


def _read(file: Path) -> Declared:
    declared = read(file, development=Settings().development)
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


def _show(changes: list[Change], unsigned: list[str]) -> None:
    colours = {"+": "green", "-": "red", "~": "yellow"}
    for line in map(str, changes):
        click.secho(line, fg=colours[line[0]])
    for tenant in unsigned:
        click.echo(
            f"{tenant}: unsigned messages are accepted: "
            "whoever can write to the queue speaks for it"
        )


def _agree(removed: list[str], *, yes: bool) -> None:
    if yes:
        return
    if sys.stdin.isatty():
        click.confirm("Apply this?", abort=True, err=True)
    elif removed:
        raise click.ClickException(
            f"This removes {', '.join(removed)}, and there is no terminal to ask on: give --yes."
        )


def _close(changes: list[Change], *, applied: bool, as_json: bool) -> None:
    if as_json:
        rows = [change._asdict() for change in changes]
        click.echo(json.dumps({"changes": rows, "applied": applied}, indent=2))
    elif not changes:
        click.echo("Nothing to change.")
    else:
        click.echo("Applied." if applied else "Nothing was changed: this was a dry run.")
