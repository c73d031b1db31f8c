"""One quota changed at once, without the file of tenants: for good, or for a while."""

import json
from datetime import datetime

import click
from sqlalchemy import Connection

from valetkey.refusals import Metric, Window
from worker.adapters import account, changes, raises
from worker.adapters.clock import now
from worker.adapters.database import writing
from worker.adapters.declarations import load, store
from worker.commands.moments import read_moment
from worker.commands.opened import opened
from worker.commands.quota_words import declared_tenant, end_of_raise, of_a_quota, read_quota
from worker.core.adjusting import find, in_the_way, new_conflicts, with_quota
from worker.core.conflicts import Conflict
from worker.core.difference import Change, difference
from worker.core.standing import amount, in_json
from worker.core.tenancy import Declared, Quota, Raise

_json_option = click.option("--json", "as_json", is_flag=True, help="Print what changed as JSON.")


@click.command("set")
@of_a_quota
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
    with opened(writing) as connection:
        before = load(connection)
        whose = declared_tenant(before, tenant)
        old = find(whose, metric, window)
        warn_at = warn or (old.warn_at if old else None)
        new = read_quota(metric, window, limit, warn_at, word="LIMIT")
        found = _set(connection, before, whose.name, new)
    text = "\n".join(map(str, found)) or "Nothing to change."
    click.echo(_in_json(found) if as_json else text)
    if found:
        click.echo("The next `apply` of a file that says otherwise sets it back.", err=True)


def _set(connection: Connection, before: Declared, tenant: str, new: Quota) -> list[Change]:
    after = with_quota(before, before.tenants[tenant], new)
    impossible = new_conflicts(before, after)
    for conflict in impossible:
        click.echo(f"{conflict.message} ({conflict.hint})", err=True)
    if impossible:
        raise click.ClickException("Nothing was changed.")
    found = difference(before, after)
    if found:
        store(connection, before, after)
        changes.record(connection, found, changes.Author(now(), account.operator(), "quota set"))
    return found


@click.command("raise")
@of_a_quota
@click.option("--by", required=True, help="How much more: a number, or a size like 10GiB.")
@click.option("--for", "duration", help="For how long, like 2h.")
@click.option("--until", callback=read_moment, help="Until when, like 2026-11-24T18:00 (UTC).")
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
    end = end_of_raise(window, duration, until, at)
    raised = Raise(metric, window, read_quota(metric, window, by, word="--by").limit, end)
    path = f"tenants.{tenant}.quotas.{metric}.{window}.raise"
    change = Change(path, None, in_json(raised))
    in_its_way = _raise(tenant, raised, change, at)
    more = f"{metric}.{window} of {tenant}: {amount(metric, raised.extra)} more"
    click.echo(_in_json([change]) if as_json else f"{more} until {end:%F %T} UTC.")
    for conflict in in_its_way:
        click.echo(f"Note: {conflict.message}.", err=True)


def _raise(tenant: str, raised: Raise, change: Change, at: datetime) -> list[Conflict]:
    with opened(writing) as connection:
        whose = declared_tenant(load(connection), tenant)
        if find(whose, raised.metric, raised.window) is None:
            text = (
                f"{tenant} has no quota {raised.metric}.{raised.window}, and so nothing to raise."
            )
            raise click.ClickException(text)
        raises.add(connection, tenant, raised, at)
        changes.record(connection, [change], changes.Author(at, account.operator(), "quota raise"))
    return in_the_way(whose, raised, at)


def _in_json(found: list[Change]) -> str:
    return json.dumps({"changes": [change._asdict() for change in found]})
