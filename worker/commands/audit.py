"""Lists the audit log: grants, administration, rejected messages and cancellations."""

from datetime import datetime
from typing import Any

import click

from worker.commands.database import open_database
from worker.commands.options import format_options, limit_option, moment_option
from worker.commands.output import print_first_rows, print_page, print_rows
from worker.db.audit import cancellations, changes, grants, rejections
from worker.db.audit.grants import (
    AmbiguousCursor,
    AuditCount,
    AuditCursor,
    AuditRecord,
    GrantFilter,
    UnknownCursor,
    read_page,
)
from worker.db.engine import read_transaction

_tenant = click.option("--tenant", help="Only of this tenant.")
_since = click.option("--since", callback=moment_option, help="Not before, as in `audit list`.")
_LONGEST_NUMBER = 9  # digits: a batch has fewer items than that


def _place(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> AuditCursor | None:
    if text is None:
        return None
    tenant, _, grant = text.rpartition("/")
    batch, _, item = grant.partition(".")
    if not (item.isascii() and item.isdecimal() and len(item) <= _LONGEST_NUMBER):
        raise click.BadParameter(
            "a grant's id is BATCH.NUMBER, as the last column has it, or TENANT/BATCH.NUMBER"
        )
    return AuditCursor(batch, int(item), tenant or None)


@click.group()
def audit() -> None:
    """Read what was asked for and decided."""


@audit.command("list")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--bucket", help="Only in this bucket profile.")
@click.option("--key", help="Only this object key.")
@click.option("--prefix", help="Only object keys that begin so.")
@click.option("--requester", help="Only what was requested by this one.")
@click.option("--signed-by", help='Only what this key signed; "" is what nobody signed.')
@click.option("--decision", type=click.Choice(["issued", "refused"]))
@click.option(
    "--since", callback=moment_option, help="Not before: 2h, 2d ago, 2026-11-24, 2026-11-24T08:30."
)
@click.option(
    "--until", callback=moment_option, help="Before, in the same forms; without a zone, UTC."
)
@click.option("--batch", help="Only of the request with this id.")
@click.option("--grant", callback=_place, help="Only the item with this id.")
@limit_option
@click.option("--after", callback=_place, help="Begin behind the item with this id.")
@format_options
@click.pass_context
def list_entries(
    context: click.Context, /, *, limit: int, after: AuditCursor | None, form: Any, **asked: Any
) -> None:
    """List items that were asked for, newest first: issued, or the refusal's code.

    \b
    Examples:
      python -m worker audit list --tenant acme --decision refused --since 1d
      python -m worker audit list --key acme/2026/11/u-1.pdf --json
      python -m worker audit list --tenant acme --signed-by billing-2026
    """
    try:
        with open_database(read_transaction) as connection:
            found = read_page(connection, GrantFilter(**asked), limit, after)
    except UnknownCursor:
        raise click.BadParameter("there is no such batch", param_hint="--after") from None
    except AmbiguousCursor:
        text = "several tenants have such a batch: TENANT/BATCH.NUMBER says whose"
        raise click.BadParameter(text, param_hint="--after") from None
    print_page(context, AuditRecord._fields, found.entries, form, found.after)


@audit.command()
@click.option("--tenant", help="Only of this tenant.")
@click.option("--since", callback=moment_option, help="Not before, as in `audit list`.")
@click.option("--until", callback=moment_option, help="Before, as in `audit list`.")
@format_options
def summary(*, form: Any, **asked: Any) -> None:
    """Count what was issued and refused, by tenant and kind.

    \b
    Example:
      python -m worker audit summary --since 1d
    """
    with open_database(read_transaction) as connection:
        print_rows(AuditCount._fields, grants.count_grants(connection, GrantFilter(**asked)), form)


@audit.command("changes")
@_since
@limit_option
@click.option("--after", type=click.IntRange(min=1), help="Begin behind the change of this number.")
@format_options
@click.pass_context
def list_changes(
    context: click.Context, /, *, form: Any, limit: int, since: datetime | None, after: int | None
) -> None:
    """List what was changed of tenants, buckets, policies, keys and quotas, newest first.

    \b
    Example:
      python -m worker audit changes --since 7d
    """
    with open_database(read_transaction) as connection:
        found = changes.read_changes(connection, limit + 1, since=since, after=after)
    behind = found[limit - 1].number if len(found) > limit else None
    print_page(context, changes.ChangeRecord._fields, found[:limit], form, behind)


@audit.command("rejections")
@_tenant
@_since
@limit_option
@format_options
def list_rejections(*, form: Any, limit: int, **asked: Any) -> None:
    """Count, by the hour, messages that nobody is known to have sent.

    The tenant is the one that a message named, which is no proof that it asked. Of the last
    message there is the SHA-256, to find it by.

    \b
    Example:
      python -m worker audit rejections --tenant acme --since 1d
    """
    with open_database(read_transaction) as connection:
        found = rejections.read_rejections(connection, limit + 1, **asked)
    print_first_rows(rejections.RejectionRecord._fields, found, limit, form)


@audit.command("cancellations")
@_tenant
@_since
@limit_option
@format_options
def list_cancellations(*, form: Any, limit: int, **asked: Any) -> None:
    """List the batches that were cancelled, newest first, and by whom.

    \b
    Example:
      python -m worker audit cancellations --tenant acme
    """
    with open_database(read_transaction) as connection:
        found = cancellations.read_cancellations(connection, limit + 1, **asked)
    print_first_rows(cancellations.CancellationRecord._fields, found, limit, form)
