"""Applies a tenants file: shows what it changes, asks for confirmation, and stores it."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import read_transaction, write_transaction
from worker.cli import database
from worker.cli.command_options import ROW_NUMBER, confirm
from worker.cli.database import open_database
from worker.cli.found_service import FoundService
from worker.errors import Malformed, Transient
from worker.features import load_each
from worker.ledger import reservations
from worker.ledger.tenant_rows import load_config, read_used_ids
from worker.rules.tenant_config import DefaultEndpoints, TenantConfig, assign_ids
from worker.settings import Settings
from worker.tenants.apply_plan import ApplyPlan, InUseCounts, Removal, plan_apply
from worker.tenants.config_changes import ChangeAuthor, change_config
from worker.tenants.config_conflicts import new_conflicts
from worker.tenants.config_revert import NotRevertible, RevertedConfig, revert_change
from worker.tenants.tenants_file import FileProblem, read_tenants_file
from worker.tenants.toml_fields import format_location

_COLOURS = {"+": "green", "-": "red", "~": "yellow"}


_DEFAULT_FILE = Path("tenants.toml")


@click.command()
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False
)
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@click.option("--yes", is_flag=True, help="Apply without asking for confirmation.")
@click.option(
    "--replace-all",
    "database_name",
    metavar="DATABASE",
    help="Also replace every tenant without asking. Refused if the database has another name.",
)
@click.option(
    "--revert",
    "change_number",
    type=ROW_NUMBER,
    metavar="CHANGE",
    help="Apply no file: undo the `apply` or `quota set` that made this change.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
def apply(*, file: Path | None, change_number: int | None, **options: Any) -> None:
    """Apply the tenants, keys, policies, quotas, endpoints and bucket profiles in FILE.

    Shows the difference first and, on a terminal, asks for confirmation. Without a terminal, --yes
    is required to remove a tenant, to remove, replace or revoke a key that has live grants, or to
    remove an endpoint that has pending webhooks. To replace every tenant, type the database's name,
    or give it with --replace-all. Each run warns of tenants that trust the queue, of keys that have
    expired or will expire within 30 days, and of uploads that no source reports.

    Everything that FILE does not contain is removed, except for the audit log, the usage of
    tenants, and quotas raised with `quota raise`. `audit changes` lists what was changed, when, and
    by which account.

    A tenant that is added under the name of a removed one is a new tenant, which inherits no
    batches, usage, raised quotas or webhooks. With --revert, the removed tenant is back with its
    keys, policies, batches and usage; webhooks that were pending at its removal are not sent.
    CHANGE is a number from `audit changes`.

    FILE defaults to tenants.toml. examples/tenants.toml is a commented example.

    \b
    Examples:
      python -m worker apply examples/tenants.toml --dry-run
      python -m worker apply --revert 57 --dry-run
    """
    if change_number is None:
        file = file or _default_file()
    elif file is not None:
        raise click.UsageError("Give FILE or --revert, but not both.")
    _apply(file, change_number, **options)


def _apply(  # noqa: PLR0913 - the command's options
    file: Path | None,
    change_number: int | None,
    *,
    dry_run: bool,
    yes: bool,
    database_name: str | None,
    as_json: bool,
) -> None:
    if database_name not in {None, _database_name()}:
        raise click.ClickException(
            f"The database is {_database_name()}, not {database_name}: nothing was changed."
        )
    config, restored_ids = TenantConfig(), dict[str, str]()
    if file is not None:
        config = read_config(file)
    now = clock.now()
    with open_database(read_transaction) as connection:
        before = load_config(connection)
        if change_number is not None:
            config, restored_ids = _revert(connection, before, change_number)
        after = assign_ids(before, config, read_used_ids(connection), now, restored_ids)
        live_grants = reservations.count_live_grants(connection, now)
        pending = dict(pair for count in load_each("in_use") for pair in count(connection).items())
        in_use = InUseCounts(live_grants, pending)
    plan = plan_apply(before, after, in_use, now)
    _show_plan(plan, as_json=as_json)
    is_applied = bool(plan.changes) and not dry_run
    if is_applied:
        if before.tenants and before.tenants.keys().isdisjoint(after.tenants):
            if database_name is None:
                _confirm_replacement()
        elif not yes:
            _confirm(plan.removals)
        _store(before, after, restored_ids)
    if not dry_run:
        _tell_running_dev(after, file)
    _print_result(plan, applied=is_applied, as_json=as_json)


def _default_file() -> Path:
    if not _DEFAULT_FILE.is_file():
        raise click.UsageError(f"There is no {_DEFAULT_FILE} here: give the FILE to apply.")
    return _DEFAULT_FILE


def _revert(connection: Connection, before: TenantConfig, change_number: int) -> RevertedConfig:
    try:
        reverted = revert_change(connection, before, change_number)
    except NotRevertible as error:
        raise click.ClickException(f"Change {change_number} cannot be undone: {error}.") from None
    conflicts = new_conflicts(before, reverted.config)
    for conflict in conflicts:
        click.echo(f"{format_location(conflict.location)}: {conflict.message}", err=True)
    if conflicts:
        raise click.ClickException(f"Change {change_number} was not undone.")
    return reverted


def read_config(file: Path) -> TenantConfig:
    """Return the config in a tenants file. Raises click.ClickException after printing problems."""
    settings = Settings()
    endpoints = DefaultEndpoints(settings.s3_endpoint, settings.s3_internal_endpoint)
    config = read_tenants_file(file, endpoints)
    problems = list(_signing_problems(config)) if isinstance(config, TenantConfig) else config
    if isinstance(config, TenantConfig) and not problems:
        return config
    for problem in problems:
        click.echo(_format_problem(file, problem), err=True)
    raise click.ClickException(f"{file} is not valid: nothing was done.")


def _signing_problems(config: TenantConfig) -> Iterator[FileProblem]:
    s3 = S3Clients.from_settings(Settings())
    for name, bucket in config.buckets.items():
        try:
            s3.target(bucket)
        except Malformed as error:
            yield FileProblem(f"buckets.{name}", None, str(error), None)
        except Transient:
            pass  # only the workers have this AWS profile: they report what is wrong with it


def _format_problem(file: Path, problem: FileProblem) -> str:
    location = f"{file}:{problem.line}" if problem.line else str(file)
    path = f"{problem.path}: " if problem.path else ""
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"{location}: {path}{problem.message}{hint}"


def _warn(text: str) -> None:
    click.secho(f"WARNING: {text}", fg="yellow", bold=True, err=True)


def _show_plan(plan: ApplyPlan, *, as_json: bool) -> None:
    for line in () if as_json else map(str, plan.changes):
        click.secho(line, fg=_COLOURS[line[0]])
    for warning in plan.warnings:
        _warn(f"{warning.message} ({warning.hint})")
    _print_removals(plan.removals)


def _print_removals(removals: list[Removal]) -> None:
    if not removals:
        return
    click.secho("This removes or revokes:", fg="red", bold=True, err=True)
    for removal in removals:
        click.echo(f"  {removal}", err=True)
    text = "Links that were issued work until they expire. Pending webhooks will not be sent."
    click.echo(text, err=True)
    if any(removal.is_tenant for removal in removals):
        text = "A tenant added under a removed one's name is new. --revert restores a removed one."
        click.echo(text, err=True)


def _confirm(removals: list[Removal]) -> None:
    if removals or sys.stdin.isatty():
        confirm(
            "Apply this?",
            "This removes or revokes what is listed above, and there is no terminal to confirm it "
            "on: give --yes to apply it.",
        )


def _database_name() -> str:
    url = make_url(Settings().database_url.get_secret_value())
    return Path(url.database or "").name  # of SQLite, the file's


def _confirm_replacement() -> None:
    """Let the operator name the database, which may be another one than they think."""
    name = _database_name()
    text = f"This replaces every tenant of the database {name}"
    if not sys.stdin.isatty():
        raise click.ClickException(
            f"{text}, and there is no terminal to confirm it on: give --replace-all {name} if it is"
            " the right one."
        )
    given_name = click.prompt(f"{text}. Type its name to apply it", err=True)
    if given_name != name:
        raise click.ClickException(f"{text}, not of {given_name}: nothing was changed.")


def _store(before: TenantConfig, after: TenantConfig, restored_ids: Mapping[str, str]) -> None:
    with open_database(write_transaction) as connection:
        author = ChangeAuthor(clock.now(), database.operator_account(), "apply")
        change_config(connection, before, after, author, restored_ids)


def _tell_running_dev(config: TenantConfig, file: Path | None) -> None:
    running = click.get_current_context().find_object(FoundService)
    problem = None if running is None else running.adopt(config, file)
    if problem is not None:
        _warn(problem)


def _print_result(plan: ApplyPlan, *, applied: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(plan.to_dict() | {"applied": applied}, indent=2))
    elif not plan.changes:
        click.echo("Nothing to change.")
    else:
        click.echo("Applied." if applied else "Nothing was changed: this was a dry run.")
