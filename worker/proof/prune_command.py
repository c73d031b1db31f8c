"""Removes the grants of old months from the audit log."""

import sys
from datetime import datetime

import click
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from valetkey.units import format_size
from worker import clock
from worker.base.database_engine import autocommit_read, read_transaction
from worker.base.month_partitions import month_of
from worker.cli import database
from worker.cli.command_options import confirm
from worker.cli.database import open_database
from worker.errors import Transient
from worker.proof.prune import PrunePlan, PruneRefused, plan_prune, prune
from worker.shared.months import format_month, parse_month
from worker.shared.output import print_rows

_COLUMNS = ("tenant", "chunks", "items", "uses", "checkpoint")


def _parse_month(_context: click.Context, _option: click.Parameter, text: str) -> int:
    try:
        month = parse_month(text.strip())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    current = month_of(clock.now())
    if month >= current:
        raise click.BadParameter(
            f"the log is kept for this month and the one before it: give a month before"
            f" {format_month(current)}"
        )
    return month


@click.command("prune")
@click.option(
    "--before",
    required=True,
    metavar="MONTH",
    callback=_parse_month,
    help="The first month to keep, such as 2026-01, in UTC.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--without-checkpoint",
    is_flag=True,
    help="Remove grants that no signed checkpoint covers, too.",
)
def prune_log(*, before: int, dry_run: bool, yes: bool, without_checkpoint: bool) -> None:
    """Remove the grants of all chunks that were issued before a month, for ever.

    So are the settlements of these chunks, and the uses of grants that were recorded before that
    month. Batches, chunks, refusals of whole chunks, leaves and checkpoints stay, and the hashes
    that `audit verify` needs to verify them. It accepts that these rows are missing. On PostgreSQL
    whole partitions of grants are dropped. On SQLite rows are deleted, and the file keeps its size.

    Refuses if a signed checkpoint does not cover what is removed, or if unfinished work needs it.

    \b
    Examples:
      python -m worker audit prune --before 2026-01 --dry-run
      python -m worker audit prune --before 2026-01
    """
    now = clock.now()
    # A later release may keep more of what is removed.
    with open_database(read_transaction, refuses_later=True) as connection:
        try:
            plan = plan_prune(connection, before, now)
        except PruneRefused as error:
            raise click.ClickException(f"{error}.") from None
    if plan.is_empty:
        click.echo(f"There is nothing to remove before {format_month(before)}.")
        return
    _print_plan(plan)
    _refuse(plan, without_checkpoint=without_checkpoint)
    if dry_run:
        click.echo("Nothing was removed: this was a dry run.")
        return
    if not yes:
        confirm(f"Remove {plan.items:,} grants for ever?")
    with open_database(autocommit_read) as connection:
        removed = _remove(connection.engine, plan, now)
    click.echo(f"Removed {removed:,} grants that were issued before {format_month(before)}.")


def _print_plan(plan: PrunePlan) -> None:
    rows = []
    for part in plan.parts:
        covered = "missing" if part.uncovered else "signed"
        rows.append((part.tenant, f"{part.chunks:,}", f"{part.items:,}", f"{part.uses:,}", covered))
    if rows:
        print_rows(_COLUMNS, rows, None)
    if plan.is_begun:
        click.echo("An earlier prune was interrupted: its remaining rows are removed as well.")
    names = ", ".join(partition.name for partition in plan.partitions)
    if names:
        click.echo(f"Partitions to drop: {names} ({format_size(plan.bytes)})")
    click.echo(f"Grants to remove, before {format_month(plan.before)}: {plan.items:,}")
    if plan.uses:
        click.echo(f"Uses to remove, before {format_month(plan.before)}: {plan.uses:,}")


def _refuse(plan: PrunePlan, *, without_checkpoint: bool) -> None:
    """Raise click.ClickException if the grants are needed, or not covered by a checkpoint."""
    if plan.blockers:
        text = "\n".join(
            f"  {blocker.number:,} {blocker.what}, such as batch {blocker.batch_id}: {blocker.hint}"
            for blocker in plan.blockers
        )
        raise click.ClickException(f"Unfinished work needs these grants:\n{text}")
    if plan.uncovered and not without_checkpoint:
        raise click.ClickException(
            f"No signed checkpoint covers all of this of {', '.join(plan.uncovered)}: without one,"
            " nobody can prove later what was removed. Run `python -m worker audit checkpoint`, or"
            " give --without-checkpoint."
        )


def _remove(engine: Engine, plan: PrunePlan, now: datetime) -> int:
    account = database.operator_account()
    with click.progressbar(
        length=2 * plan.items, label="Removing", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        try:
            return prune(engine, plan, account, now, bar.update)
        except PruneRefused as error:
            raise click.ClickException(f"{error}.") from None
        except (DBAPIError, Transient) as error:
            if not _is_lock(error):
                raise
            raise click.ClickException(
                "A long read or another transaction holds the grants. Nothing was dropped: run the"
                " command again when it has ended."
            ) from None


def _is_lock(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, Transient) else error
    return type(getattr(cause, "orig", None)).__name__ == "LockNotAvailable"
