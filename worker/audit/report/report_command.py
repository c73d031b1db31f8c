"""Writes a report on the audit log as a web page."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from worker import clock
from worker.audit.filter_options import note_pruned
from worker.audit.grant_filters import GrantFilter, find_profiles
from worker.audit.report.report_figures import Scope
from worker.audit.report.report_page import render_page
from worker.audit.report.report_reader import UnusableRange, choose_unit, read_report
from worker.base.database_engine import snapshot_transaction
from worker.base.private_files import write_private_file
from worker.cli.command_options import (
    chosen_zone,
    since_option,
    tenant_option,
    until_option,
    zone_option,
)
from worker.cli.database import open_database
from worker.ledger.tenant_history import UnknownName, check_tenant

_DEFAULT_RANGE = timedelta(days=30)
_MAX_TITLE = 200  # characters
_STDOUT = "-"


@click.command("report")
@tenant_option
@click.option("--bucket", help="Only this bucket profile, or the profiles of this bucket.")
@since_option
@until_option
@zone_option
@click.option("--title", help="Title of the page.")
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="File to write, which only its owner may read; - for standard output.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def report(
    context: click.Context, /, *, title: str | None, out: str, force: bool, **options: Any
) -> None:
    """Write a report on the audit log as one web page that loads nothing from a network.

    Shows issued and refused items by time, tenant, bucket, kind and reason, lifetimes, the largest
    requesters and keys, quotas, and the state of the log. Without --since, the report is about the
    last 30 days. Without --until, it ends now. With --tenant, it has nothing about other tenants.

    \b
    Examples:
      python -m worker audit report --since 30d --out report.html
      python -m worker audit report --tenant acme --since 2026-11 --tz Europe/Berlin --out acme.html
    """
    _check_out(out, force=force)
    _check_texts({**options, "title": title})
    now = clock.now().replace(microsecond=0)
    scope = _build_scope(context, options, now)
    with open_database(snapshot_transaction) as connection:
        note_pruned(connection, scope.since)
        figures = read_report(connection, scope, _find_filter(connection, scope), now)
    title = title or (f"Audit report: {scope.tenant}" if scope.tenant else "Audit report")
    page = render_page(figures, title)
    if out == _STDOUT:
        click.echo(page, nl=False)
    else:
        _write(Path(out), page, force=force)


def _build_scope(context: click.Context, options: dict[str, Any], now: datetime) -> Scope:
    until = options["until"] or now
    since = options["since"] or min(until, now) - _DEFAULT_RANGE
    # Whole seconds: the page shows the range exactly.
    since, until = (moment.replace(microsecond=0) for moment in (since, until))
    try:
        unit = choose_unit(since, until)
    except UnusableRange as error:
        raise click.UsageError(f"--since and --until: {error}.") from None
    names = {name: options[name] for name in ("tenant", "bucket")}
    return Scope(since=since, until=until, zone=chosen_zone(context), unit=unit, **names)


def _check_out(out: str, *, force: bool) -> None:
    """Refuse a file that cannot be written, before the database is read."""
    path = Path(out)
    if not out:  # as from an unset variable; Path would take it for the current folder
        raise click.BadParameter("the file has no name", param_hint="--out")
    if out == _STDOUT:
        return
    if path.exists() and not path.is_file():
        raise click.BadParameter(f"{path} is not a regular file", param_hint="--out")
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists: name another --out, or add --force to replace it.")
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}", param_hint="--out")


def _check_texts(options: dict[str, Any]) -> None:
    """Refuse texts that neither the database nor the page can hold."""
    for name in ("tenant", "bucket", "title"):
        text = options[name] or ""
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise click.BadParameter("it has bytes that are not UTF-8", param_hint=f"--{name}")
    if len(options["title"] or "") > _MAX_TITLE:
        text = f"a title has at most {_MAX_TITLE} characters"
        raise click.BadParameter(text, param_hint="--title")


def _find_filter(connection: Connection, scope: Scope) -> GrantFilter:
    """Return the filter of a report, with its names checked."""
    try:
        if scope.tenant is not None:
            check_tenant(connection, scope.tenant)
        buckets = find_profiles(connection, scope.bucket) if scope.bucket is not None else ()
    except UnknownName as error:
        raise click.BadParameter(str(error), param_hint=f"--{error.field}") from None
    return GrantFilter(tenant=scope.tenant, buckets=buckets, since=scope.since, until=scope.until)


def _write(path: Path, page: str, *, force: bool) -> None:
    try:
        write_private_file(path, page.encode(), replace=force)
    except FileExistsError:
        raise click.UsageError(f"{path} was written by another process: nothing changed.") from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from None
    click.echo(f"{path}: {len(page.encode()):,} bytes", err=True)
