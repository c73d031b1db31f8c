"""Shows the quotas of tenants, and changes a single one without applying a tenants file."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import click
from pydantic import ValidationError
from sqlalchemy import Connection

from valetkey.units import (
    describe_amount,
    describe_live_reset,
    format_amount,
    format_duration,
    parse_duration,
)
from valetkey.wire.refusals import Metric, Window
from worker import clock
from worker.base.database_engine import read_transaction, write_transaction
from worker.cli import database
from worker.cli.database import open_database
from worker.ledger import quota_usage
from worker.ledger.tenant_rows import load_config
from worker.quota import quota_changes
from worker.quota.quota_changes import find_quota, override_conflicts, parse_quota, with_quota
from worker.rules.quota_rules import METRICS, WINDOWS, resets_at
from worker.rules.tenant_config import (
    ONLY_LIVE_QUOTA,
    Quota,
    QuotaOverride,
    Tenant,
    TenantConfig,
)
from worker.shared.command_options import (
    Command,
    format_options,
    parse_moment_option,
    tenant_option,
)
from worker.shared.output import print_rows
from worker.shared.quota_statuses import QuotaStatus, quota_statuses
from worker.tenants import config_changes
from worker.tenants.apply_plan import FieldChange
from worker.tenants.config_conflicts import Conflict, new_conflicts
from worker.tenants.toml_fields import closest_name, error_message

_COLUMNS = ("tenant", "quota", "used", "limit", "share", "", "resets in", "")
_BAR_WIDTH = 20  # columns
_LIVE_OVERRIDE = timedelta(days=1)  # the window `live` has no end, so its overrides need one

_json_option = click.option("--json", "as_json", is_flag=True, help="Print what changed as JSON.")


def _quota_arguments(command: Command) -> Command:
    """Add TENANT METRIC WINDOW to a command."""
    metric = click.argument("metric", type=click.Choice(METRICS))
    window = click.argument("window", type=click.Choice(WINDOWS))
    tenant = click.argument("tenant_name", metavar="TENANT")
    return tenant(metric(window(command)))


@click.group()
def quota() -> None:
    """Show usage and quotas, and change a quota at once."""


@quota.command("show")
@tenant_option
@click.option("--all", "include_unlimited", is_flag=True, help="Include usage without a quota.")
@format_options
def show_quotas(*, tenant: str | None, include_unlimited: bool, output_format: Any) -> None:
    """Show the usage of each quota, with a bar and a mark at which warnings begin.

    The window `live` counts grants that have not expired, the bytes of upload slots until they are
    settled, and bytes that are stored.

    \b
    Example:
      python -m worker quota show --tenant acme
    """
    now = clock.now()
    statuses: list[QuotaStatus] = []
    with open_database(read_transaction) as connection:
        config = load_config(connection)
        tenants = config.tenants.values() if tenant is None else [_find_tenant(config, tenant)]
        for item in tenants:
            used = quota_usage.read_usage(connection, item.id, now)
            statuses += quota_statuses(item, used, now, include_unlimited=include_unlimited)
    if output_format is not None:
        print_rows(QuotaStatus._fields, statuses, output_format)
    elif statuses:
        print_rows(_COLUMNS, [status_row(status, now) for status in statuses], output_format)
    else:
        click.echo("There are no quotas.", err=True)


def status_row(status: QuotaStatus, now: datetime) -> tuple[str, ...]:
    """Format a status as text: tenant, quota, used, limit, share, bar, time to reset, notes."""
    return (
        status.tenant,
        f"{status.metric}.{status.window}",
        format_amount(status.metric, status.used),
        "none" if status.limit is None else format_amount(status.metric, status.limit),
        "" if status.percent is None else f"{status.percent}%",
        _format_bar(status),
        _format_reset(status, now),
        "; ".join(_notes(status)),
    )


def _format_reset(status: QuotaStatus, now: datetime) -> str:
    if status.resets_at is not None:
        return format_duration(status.resets_at - now)
    return describe_live_reset(status.metric)


def _format_bar(status: QuotaStatus) -> str:
    """Draw the used share of the limit, and a mark at which warnings begin.

    Any use fills at least one cell. Only a quota with nothing left fills all of them.
    """
    if status.limit is None:
        return ""
    full = min(-(-status.used * _BAR_WIDTH // status.limit), _BAR_WIDTH)
    if status.left:
        full = min(full, _BAR_WIDTH - 1)
    cells = ["█"] * full + ["░"] * (_BAR_WIDTH - full)
    if status.warn_at is not None:
        cells[min(status.warn_at * _BAR_WIDTH // status.limit, _BAR_WIDTH - 1)] = "│"
    return "".join(cells)


def _notes(status: QuotaStatus) -> Iterator[str]:
    if status.warn_at is not None:
        verb = "WARNS" if status.warns else "warns"
        yield f"{verb} from {format_amount(status.metric, status.warn_at)}"
    for override in status.raises:
        amount = format_amount(status.metric, int(override["by"]))
        yield f"raised by {amount} until {override['until']}"


def _find_tenant(config: TenantConfig, name: str) -> Tenant:
    """Return the tenant of this name or id. Raises click.ClickException if there is none."""
    tenant = config.tenants.get(name) or config.tenant_by_id(name)
    if tenant is not None:
        return tenant
    similar_name = closest_name(name, config.tenants)
    hint = f": did you mean {similar_name}?" if similar_name else "."
    raise click.ClickException(f"No tenant {name!r} is configured{hint}")


@quota.command("set")
@_quota_arguments
@click.argument("limit")
@click.option(
    "--warn", help='Usage from which to warn: a number, a size, or a percentage like "80%".'
)
@_json_option
def set_quota(  # noqa: PLR0913 - the command's arguments
    *, tenant_name: str, metric: Metric, window: Window, limit: str, warn: str | None, as_json: bool
) -> None:
    """Add a quota to TENANT, or change its limit, at once.

    LIMIT is a number, or for bytes a size like 10GiB. Without --warn, the usage that causes
    warnings stays the same. The next `apply` of a tenants file with another limit sets it back.

    \b
    Example:
      python -m worker quota set acme grants hour 60000 --warn 80%
    """
    with open_database(write_transaction) as connection:
        before = load_config(connection)
        tenant = _find_tenant(before, tenant_name)
        old = find_quota(tenant, metric, window)
        warn_at = warn if warn is not None or old is None else old.warn_at
        new = _parse_quota_arguments(metric, window, limit, warn_at, limit_hint="LIMIT")
        field_changes = _store_quota(connection, before, tenant, new)
    text = "\n".join(map(str, field_changes)) or "Nothing to change."
    click.echo(_format_json(field_changes) if as_json else text)
    if field_changes:
        click.echo("The next `apply` of a tenants file with another value sets it back.", err=True)


def _parse_quota_arguments(
    metric: Metric, window: Window, limit: str, warn: str | int | None = None, *, limit_hint: str
) -> Quota:
    """Return the quota with this limit. Raises click.BadParameter.

    limit_hint is the command's name for the limit, for error messages.
    """
    if metric == "stored_bytes" and window != "live":
        raise click.BadParameter(ONLY_LIVE_QUOTA, param_hint="WINDOW")
    try:
        return parse_quota(metric, window, limit, warn)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[0]
        param_hint = limit_hint if details["loc"] == ("limit",) else "--warn"
        details["loc"] = ("tenants", "", "quotas", metric)  # names the unit
        raise click.BadParameter(error_message(details), param_hint=param_hint) from None


def _store_quota(
    connection: Connection, before: TenantConfig, tenant: Tenant, quota: Quota
) -> list[FieldChange]:
    after = with_quota(before, tenant, quota)
    conflicts = new_conflicts(before, after)
    for conflict in conflicts:
        click.echo(f"{conflict.message} ({conflict.hint})", err=True)
    if conflicts:
        raise click.ClickException("Nothing was changed.")
    if after == before:
        return []
    author = config_changes.ChangeAuthor(clock.now(), database.operator_account(), "quota set")
    return config_changes.change_config(connection, before, after, author)


@quota.command("raise")
@_quota_arguments
@click.option(
    "--by", "amount", required=True, help="Amount to add: a number, or a size like 10GiB."
)
@click.option("--for", "duration", help="Duration of the increase, like 2h.")
@click.option(
    "--until",
    callback=parse_moment_option,
    help="End of the increase, like 2026-11-24T18:00 (UTC).",
)
@_json_option
def raise_quota(  # noqa: PLR0913 - the command's arguments
    *,
    tenant_name: str,
    metric: Metric,
    window: Window,
    amount: str,
    duration: str | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Raise a quota of TENANT temporarily: by default, until its window resets.

    A quota of the window `live`, which does not reset, is raised for a day by default. The increase
    stays in effect when a tenants file is applied meanwhile.

    \b
    Example:
      python -m worker quota raise acme grants hour --by 10000 --for 2h
    """
    now = clock.now()
    end = _override_end(window, duration, until, now)
    extra = _parse_quota_arguments(metric, window, amount, limit_hint="--by").limit
    override = QuotaOverride(metric, window, extra, end)
    change, conflicts = _store_override(tenant_name, override, now)
    text = f"{metric}.{window} of {tenant_name}: {describe_amount(metric, extra)} more"
    click.echo(_format_json([change]) if as_json else f"{text} until {end:%F %T} UTC.")
    for conflict in conflicts:
        click.echo(f"Note: {conflict.message}.", err=True)


def _override_end(
    window: Window, duration: str | None, until: datetime | None, now: datetime
) -> datetime:
    """Return the end of a quota override: from --for, from --until, or the end of the window.

    An override of the window `live`, which has no end, ends after a day.
    """
    if duration is not None and until is not None:
        raise click.UsageError("Give --for or --until, but not both.")
    if duration is not None:
        try:
            end = now + timedelta(seconds=parse_duration(duration))
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(str(error), param_hint="--for") from None
    else:
        end = until or resets_at(window, now) or now + _LIVE_OVERRIDE
    if end <= now:
        raise click.UsageError(
            "The increase would be over already: give --for a duration such as 2h, or --until a"
            " time in the future."
        )
    return end


def _store_override(
    tenant_name: str, override: QuotaOverride, now: datetime
) -> tuple[FieldChange, list[Conflict]]:
    with open_database(write_transaction) as connection:
        tenant = _find_tenant(load_config(connection), tenant_name)
        if find_quota(tenant, override.metric, override.window) is None:
            raise click.ClickException(
                f"{tenant_name} has no quota {override.metric}.{override.window} to raise: "
                "add one with `quota set`."
            )
        author = config_changes.ChangeAuthor(now, database.operator_account(), "quota raise")
        change = quota_changes.raise_quota(connection, tenant, override, author)
    return change, override_conflicts(tenant, override, now)


def _format_json(field_changes: list[FieldChange]) -> str:
    return json.dumps({"changes": [change._asdict() for change in field_changes]})
