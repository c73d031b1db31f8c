from typing import Any

import click

from worker.adapters import usage
from worker.adapters.clock import now
from worker.adapters.database import reading
from worker.adapters.declarations import load
from worker.commands.opened import opened
from worker.commands.output import form_options, show
from worker.commands.quota_changes import raise_quota, set_quota
from worker.commands.quota_words import declared_tenant
from worker.core.standing import Standing, line, standings

_COLUMNS = ("tenant", "quota", "used", "limit", "share", "", "resets in", "")


@click.group()
def quota() -> None:
    """See how quotas stand, and change one at once."""


@quota.command("show")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--all", "every", is_flag=True, help="Also what is used where there is no quota.")
@form_options
def show_quotas(*, tenant: str | None, every: bool, form: Any) -> None:
    """Show what is used of each quota, with a bar and a mark where warnings begin.

    The window live has what was granted and has not lapsed.

    \b
    Example:
      python -m worker quota show --tenant acme
    """
    at = now()
    with opened(reading) as connection:
        declared = load(connection)
        chosen = declared.tenants.values()
        found = [
            standing
            for one in (chosen if tenant is None else [declared_tenant(declared, tenant)])
            for standing in standings(one, usage.used(connection, one.name, at), at, every=every)
        ]
    if form is not None:
        show(Standing._fields, found, form)
    elif found:
        show(_COLUMNS, [line(standing, at) for standing in found], form)
    else:
        click.echo("There are no quotas.", err=True)


for command in (set_quota, raise_quota):
    quota.add_command(command)
