"""Shows the quotas of tenants, and changes one at once, without the file of tenants."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from pydantic import ValidationError
from sqlalchemy import Connection

from valetkey.units import parse_duration
from valetkey.wire.refusals import Metric, Window
from worker.clock import now
from worker.commands import database
from worker.commands.database import open_database
from worker.commands.options import format_options, moment_option
from worker.commands.output import print_rows
from worker.core.apply.changes import blocking_quotas, find_quota, new_conflicts, with_quota
from worker.core.apply.conflicts import Conflict
from worker.core.apply.diff import FieldChange, diff_config
from worker.core.quotas.cost import METRICS, WINDOWS, resets_at
from worker.core.quotas.status import (
    QuotaStatus,
    format_amount,
    override_values,
    quota_statuses,
    status_row,
)
from worker.core.tenants.config import Quota, QuotaOverride, Tenant, TenantConfig
from worker.core.tenants.fields import closest_name
from worker.core.tenants.quota_table import parse_quota
from worker.db import quota_overrides, usage
from worker.db.audit import changes
from worker.db.engine import read_transaction, write_transaction
from worker.db.tenants import load_config, store_config

_COLUMNS = ("tenant", "quota", "used", "limit", "share", "", "resets in", "")


_json_option = click.option("--json", "as_json", is_flag=True, help="Print what changed as JSON.")
Command = TypeVar("Command", bound=Callable[..., Any])

_LIVE = timedelta(days=1)  # the window has no end, so what it is raised by gets one


def quota_arguments(command: Command) -> Command:
    """Add TENANT METRIC WINDOW to a command."""
    metric = click.argument("metric", type=click.Choice(METRICS))
    window = click.argument("window", type=click.Choice(WINDOWS))
    return click.argument("tenant")(metric(window(command)))


def find_tenant(declared: TenantConfig, name: str) -> Tenant:
    """The tenant of this name."""
    if name in declared.tenants:
        return declared.tenants[name]
    meant = closest_name(name, declared.tenants)
    question = f": did you mean {meant}?" if meant else "."
    raise click.ClickException(f"No tenant {name!r} is declared{question}")


def parse_quota_arguments(
    metric: Metric, window: Window, limit: str, warn: str | int | None = None, *, word: str
) -> Quota:
    """A quota of this limit, which the command calls by that word."""
    try:
        return parse_quota(metric, window, limit, warn)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]
        named = word if said["loc"] == ("limit",) else "--warn"
        raise click.BadParameter(said["msg"], param_hint=named) from None


def override_end(
    window: Window, duration: str | None, until: datetime | None, now: datetime
) -> datetime:
    """Until when a quota is raised: as --for or --until says, else until its window resets."""
    if duration is not None and until is not None:
        raise click.UsageError("Give --for or --until, and not both.")
    if duration is None and until is None:
        until = resets_at(window, now)
    try:
        end = until or now + (timedelta(seconds=parse_duration(duration)) if duration else _LIVE)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error), param_hint="--for") from None
    if end <= now:
        raise click.UsageError("That is over already: --for 2h is a length of time from now on.")
    return end


@click.group()
def quota() -> None:
    """See how quotas stand, and change one at once."""


@quota.command("show")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--all", "every", is_flag=True, help="Also what is used where there is no quota.")
@format_options
def show_quotas(*, tenant: str | None, every: bool, form: Any) -> None:
    """Show what is used of each quota, with a bar and a mark where warnings begin.

    The window live has what was granted and has not lapsed.

    \b
    Example:
      python -m worker quota show --tenant acme
    """
    at = now()
    with open_database(read_transaction) as connection:
        declared = load_config(connection)
        chosen = declared.tenants.values()
        found = [
            standing
            for one in (chosen if tenant is None else [find_tenant(declared, tenant)])
            for standing in quota_statuses(
                one, usage.read_usage(connection, one.name, at), at, every=every
            )
        ]
    if form is not None:
        print_rows(QuotaStatus._fields, found, form)
    elif found:
        print_rows(_COLUMNS, [status_row(standing, at) for standing in found], form)
    else:
        click.echo("There are no quotas.", err=True)


@quota.command("set")
@quota_arguments
@click.argument("limit")
@click.option("--warn", help='From where on to warn: a number, a size, or a share like "80%".')
@_json_option
def set_quota(  # noqa: PLR0913 - the words of the command
    *, tenant: str, metric: Metric, window: Window, limit: str, warn: str | None, as_json: bool
) -> None:
    """Give TENANT a quota of LIMIT at once, or change the one it has.

    LIMIT is a number, or for upload_bytes a size like 10GiB. Without --warn, warnings stay as they
    are. The next `apply` of a file that says otherwise sets it back.

    \b
    Example:
      python -m worker quota set acme grants hour 60000 --warn 80%
    """
    with open_database(write_transaction) as connection:
        before = load_config(connection)
        whose = find_tenant(before, tenant)
        old = find_quota(whose, metric, window)
        warn_at = warn or (old.warn_at if old else None)
        new = parse_quota_arguments(metric, window, limit, warn_at, word="LIMIT")
        found = _set(connection, before, whose.name, new)
    text = "\n".join(map(str, found)) or "Nothing to change."
    click.echo(_in_json(found) if as_json else text)
    if found:
        click.echo("The next `apply` of a file that says otherwise sets it back.", err=True)


def _set(
    connection: Connection, before: TenantConfig, tenant: str, new: Quota
) -> list[FieldChange]:
    after = with_quota(before, before.tenants[tenant], new)
    impossible = new_conflicts(before, after)
    for conflict in impossible:
        click.echo(f"{conflict.message} ({conflict.hint})", err=True)
    if impossible:
        raise click.ClickException("Nothing was changed.")
    found = diff_config(before, after)
    if found:
        store_config(connection, before, after)
        changes.record_changes(
            connection, found, changes.ChangeAuthor(now(), database.operator_account(), "quota set")
        )
    return found


@quota.command("raise")
@quota_arguments
@click.option("--by", required=True, help="How much more: a number, or a size like 10GiB.")
@click.option("--for", "duration", help="For how long, like 2h.")
@click.option("--until", callback=moment_option, help="Until when, like 2026-11-24T18:00 (UTC).")
@_json_option
def raise_quota(  # noqa: PLR0913 - the words of the command
    *,
    tenant: str,
    metric: Metric,
    window: Window,
    by: str,
    duration: str | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Raise a quota of TENANT for a while: until its window resets, if nothing else is said.

    The window live does not reset, and is raised for a day. What is raised stays so when something
    is applied meanwhile.

    \b
    Example:
      python -m worker quota raise acme grants hour --by 10000 --for 2h
    """
    at = now()
    end = override_end(window, duration, until, at)
    raised = QuotaOverride(
        metric, window, parse_quota_arguments(metric, window, by, word="--by").limit, end
    )
    path = f"tenants.{tenant}.quotas.{metric}.{window}.raise"
    change = FieldChange(path, None, override_values(raised))
    in_its_way = _raise(tenant, raised, change, at)
    more = f"{metric}.{window} of {tenant}: {format_amount(metric, raised.extra)} more"
    click.echo(_in_json([change]) if as_json else f"{more} until {end:%F %T} UTC.")
    for conflict in in_its_way:
        click.echo(f"Note: {conflict.message}.", err=True)


def _raise(tenant: str, raised: QuotaOverride, change: FieldChange, at: datetime) -> list[Conflict]:
    with open_database(write_transaction) as connection:
        whose = find_tenant(load_config(connection), tenant)
        if find_quota(whose, raised.metric, raised.window) is None:
            text = (
                f"{tenant} has no quota {raised.metric}.{raised.window}, and so nothing to raise."
            )
            raise click.ClickException(text)
        quota_overrides.add_override(connection, tenant, raised, at)
        changes.record_changes(
            connection,
            [change],
            changes.ChangeAuthor(at, database.operator_account(), "quota raise"),
        )
    return blocking_quotas(whose, raised, at)


def _in_json(found: list[FieldChange]) -> str:
    return json.dumps({"changes": [change._asdict() for change in found]})
