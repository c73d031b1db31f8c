"""Applies a tenants file: shows what it changes, asks for confirmation, and stores it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import read_transaction, write_transaction
from worker.cli import database
from worker.cli.database import open_database
from worker.core.tenant_config import DefaultEndpoints, TenantConfig, assign_ids
from worker.dev.child_processes import StartFailed
from worker.dev.data_folder import RunningDev
from worker.dev.stack import adopt_config
from worker.errors import Malformed, Transient
from worker.ledger import reservations
from worker.ledger.backlog import count_pending_webhooks
from worker.ledger.tenant_rows import load_config, read_used_ids, store_config
from worker.settings import Settings
from worker.tenants import config_changes
from worker.tenants.apply_plan import ApplyPlan, InUseCounts, Removal, diff_config, plan_apply
from worker.tenants.tenants_file import FileProblem, read_tenants_file

_COLOURS = {"+": "green", "-": "red", "~": "yellow"}


@click.command()
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default="tenants.toml"
)
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@click.option("--yes", is_flag=True, help="Apply without asking for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
def apply(file: Path, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Apply the tenants, keys, policies, quotas, endpoints and bucket profiles in FILE.

    Shows the difference first and, on a terminal, asks for confirmation. Without a terminal, --yes
    is required to remove a tenant, to remove, replace or revoke a key that has live grants, or to
    remove an endpoint that has pending webhooks. Each run warns of tenants that trust the queue, of
    keys that have expired or will expire within 30 days, and of uploads that nothing tells of.

    Everything that FILE does not contain is removed, except for the audit log, the usage of
    tenants, and quotas raised with `quota raise`. `audit changes` lists what was changed, when, and
    by which account.

    A removed tenant cannot be restored: a tenant that is added under its name later is a new one,
    which inherits no batches, usage, raised quotas or webhooks.

    FILE defaults to tenants.toml. examples/tenants.toml is a commented example.

    \b
    Example:
      python -m worker apply examples/tenants.toml --dry-run
    """
    config, now = _read_config(file), clock.now()
    with open_database(read_transaction) as connection:
        before = load_config(connection)
        after = assign_ids(before, config, read_used_ids(connection), now)
        live_grants = reservations.count_live_grants(connection, now)
        in_use = InUseCounts(live_grants, count_pending_webhooks(connection))
    plan = plan_apply(before, after, in_use, now)
    for line in () if as_json else map(str, plan.changes):
        click.secho(line, fg=_COLOURS[line[0]])
    for warning in plan.warnings:
        _warn(f"{warning.message} ({warning.hint})")
    _print_removals(plan.removals)
    if plan.changes and not dry_run:
        _confirm(plan.removals, yes=yes)
        _store(before, after)
    if not dry_run:
        _tell_running_dev(after, file)
    _print_result(plan, applied=bool(plan.changes) and not dry_run, as_json=as_json)


def _read_config(file: Path) -> TenantConfig:
    settings = Settings()
    endpoints = DefaultEndpoints(settings.s3_endpoint, settings.s3_internal_endpoint)
    config = read_tenants_file(file, development=settings.development, endpoints=endpoints)
    problems = list(_signing_problems(config)) if isinstance(config, TenantConfig) else config
    if isinstance(config, TenantConfig) and not problems:
        return config
    for problem in problems:
        click.echo(_format_problem(file, problem), err=True)
    raise click.ClickException(f"{file} was not applied.")


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


def _print_removals(removals: list[Removal]) -> None:
    if not removals:
        return
    click.secho("This removes or revokes:", fg="red", bold=True, err=True)
    for removal in removals:
        click.echo(f"  {removal}", err=True)
    text = "Links that were issued work until they expire. Pending webhooks will not be sent."
    click.echo(text, err=True)
    if any(removal.is_tenant for removal in removals):
        text = "A removed tenant cannot be restored: its name, added again, is a new tenant."
        click.echo(text, err=True)


def _confirm(removals: list[Removal], *, yes: bool) -> None:
    if yes:
        return
    if sys.stdin.isatty():
        click.confirm("Apply this?", abort=True, err=True)
    elif removals:
        raise click.ClickException(
            "This removes or revokes what is listed above, and there is no terminal to confirm it "
            "on: give --yes to apply it."
        )


def _store(before: TenantConfig, after: TenantConfig) -> None:
    with open_database(write_transaction) as connection:
        now = clock.now()
        stored = store_config(connection, before, after, now)
        author = config_changes.ChangeAuthor(now, database.operator_account(), "apply")
        config_changes.record_changes(connection, diff_config(before, stored), author)


def _tell_running_dev(config: TenantConfig, file: Path) -> None:
    running = click.get_current_context().find_object(RunningDev)
    if running is None:
        return
    try:
        adopt_config(running, config, file)
    except StartFailed as error:
        _warn(str(error))


def _print_result(plan: ApplyPlan, *, applied: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(plan.to_dict() | {"applied": applied}, indent=2))
    elif not plan.changes:
        click.echo("Nothing to change.")
    else:
        click.echo("Applied." if applied else "Nothing was changed: this was a dry run.")
