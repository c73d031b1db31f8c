"""What the audit log has beside grants: administration, rejected messages and cancellations."""

from datetime import datetime
from typing import Any

import click

from worker.adapters import cancellation_log, changes, rejection_log
from worker.adapters.database import reading
from worker.commands.moments import read_moment
from worker.commands.opened import opened
from worker.commands.output import form_options, limit_option, show_page, show_some

_tenant = click.option("--tenant", help="Only of this tenant.")
_since = click.option("--since", callback=read_moment, help="Not before, as in `audit list`.")


@click.command("changes")
@_since
@limit_option
@click.option("--after", type=click.IntRange(min=1), help="Begin behind the change of this number.")
@form_options
@click.pass_context
def list_changes(
    context: click.Context, /, *, form: Any, limit: int, since: datetime | None, after: int | None
) -> None:
    """List what was changed of tenants, buckets, policies, keys and quotas, newest first.

    \b
    Example:
      python -m worker audit changes --since 7d
    """
    with opened(reading) as connection:
        found = changes.entries(connection, limit + 1, since=since, after=after)
    behind = found[limit - 1].number if len(found) > limit else None
    show_page(context, changes.Entry._fields, found[:limit], form, behind)


@click.command("rejections")
@_tenant
@_since
@limit_option
@form_options
def list_rejections(*, form: Any, limit: int, **asked: Any) -> None:
    """Count, by the hour, messages that nobody is known to have sent.

    The tenant is the one that a message named, which is no proof that it asked. Of the last
    message there is the SHA-256, to find it by.

    \b
    Example:
      python -m worker audit rejections --tenant acme --since 1d
    """
    with opened(reading) as connection:
        found = rejection_log.entries(connection, limit + 1, **asked)
    show_some(rejection_log.Entry._fields, found, limit, form)


@click.command("cancellations")
@_tenant
@_since
@limit_option
@form_options
def list_cancellations(*, form: Any, limit: int, **asked: Any) -> None:
    """List the batches that were cancelled, newest first, and by whom.

    \b
    Example:
      python -m worker audit cancellations --tenant acme
    """
    with opened(reading) as connection:
        found = cancellation_log.entries(connection, limit + 1, **asked)
    show_some(cancellation_log.Entry._fields, found, limit, form)
