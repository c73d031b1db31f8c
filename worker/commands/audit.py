"""Lists the audit log: grants, administration, rejected messages and cancellations."""

from operator import attrgetter
from typing import Any

import click

from worker.commands.database import open_database
from worker.commands.options import (
    after_number_option,
    format_options,
    limit_option,
    since_option,
    tenant_option,
    until_option,
)
from worker.commands.output import print_first_page, print_page, print_rows
from worker.core.apply.defaults import is_default
from worker.db.audit import cancellations, changes, grants, rejections
from worker.db.audit.grants import (
    AmbiguousCursor,
    AuditCount,
    AuditCursor,
    AuditRecord,
    GrantFilter,
    UnknownCursor,
)
from worker.db.engine import read_transaction

_MAX_ITEM_DIGITS = 9  # more than the item numbers of any batch have


def _parse_cursor(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> AuditCursor | None:
    if text is None:
        return None
    tenant, _, grant = text.rpartition("/")
    batch_id, _, number = grant.partition(".")
    if not (number.isascii() and number.isdecimal() and len(number) <= _MAX_ITEM_DIGITS):
        raise click.BadParameter(
            "a grant's id is BATCH.NUMBER, as in the column `grant`, or TENANT/BATCH.NUMBER"
        )
    return AuditCursor(batch_id, int(number), tenant or None)


@click.group()
def audit() -> None:
    """Read the audit log of requests, decisions and administration."""


@audit.command("list")
@tenant_option
@click.option("--bucket", help="Only this bucket profile.")
@click.option("--key", "object_key", help="Only this object key.")
@click.option("--prefix", help="Only object keys that begin with this prefix.")
@click.option("--requester", help="Only requests whose `requested_by` is this.")
@click.option(
    "--signed-by",
    help='Only requests signed with the tenant\'s key of this name; "" selects unsigned ones.',
)
@click.option(
    "--decision",
    type=click.Choice(["issued", "refused"]),
    help="Only issued, or only refused items.",
)
@since_option
@until_option
@click.option("--batch", "batch_id", help="Only the batch with this id.")
@click.option("--grant", callback=_parse_cursor, help="Only the grant with this id.")
@limit_option
@click.option("--after", callback=_parse_cursor, help="Start after the grant with this id.")
@format_options
@click.pass_context
def list_grants(
    context: click.Context,
    /,
    *,
    limit: int,
    after: AuditCursor | None,
    output_format: Any,
    **filters: Any,
) -> None:
    """List requested items, newest first: the decision is `issued` or the code of the refusal.

    \b
    Examples:
      python -m worker audit list --tenant acme --decision refused --since 1d
      python -m worker audit list --key acme/2026/11/u-1.pdf --json
      python -m worker audit list --tenant acme --signed-by billing-2026
    """
    try:
        with open_database(read_transaction) as connection:
            page = grants.read_grants(connection, GrantFilter(**filters), limit, after)
    except UnknownCursor:
        text = "the audit log has no batch with this id"
        raise click.BadParameter(text, param_hint="--after") from None
    except AmbiguousCursor:
        text = "several tenants have a batch with this id: name one, as in TENANT/BATCH.NUMBER"
        raise click.BadParameter(text, param_hint="--after") from None
    print_page(context, AuditRecord._fields, page, grants.record_cursor, output_format)


@audit.command()
@tenant_option
@since_option
@until_option
@format_options
def summary(*, output_format: Any, **filters: Any) -> None:
    """Count issued and refused items by tenant and kind.

    \b
    Example:
      python -m worker audit summary --since 1d
    """
    with open_database(read_transaction) as connection:
        counts = grants.count_items_by_kind(connection, GrantFilter(**filters))
    print_rows(AuditCount._fields, counts, output_format)


@audit.command("changes")
@click.option("--all", "with_defaults", is_flag=True, help="Include fields with default values.")
@since_option
@limit_option
@after_number_option
@format_options
@click.pass_context
def list_changes(
    context: click.Context,
    /,
    *,
    output_format: Any,
    limit: int,
    with_defaults: bool,
    **filters: Any,
) -> None:
    """List changes of tenants, buckets, policies, keys and quotas, newest first.

    Shows the account that made each change, and the command that it used. The table leaves out
    fields that a new or removed tenant, bucket, policy or key has by default; --all, --json and
    --csv list them as well.

    \b
    Example:
      python -m worker audit changes --since 7d
    """
    is_unwanted = None if with_defaults or output_format is not None else _is_default
    with open_database(read_transaction) as connection:
        page = changes.read_changes(connection, limit, is_unwanted=is_unwanted, **filters)
    columns = changes.ChangeRecord._fields
    print_page(context, columns, page, attrgetter("number"), output_format)
    if page.skipped:
        click.echo(f"Default values left out: {page.skipped:,}; --all shows them.")


def _is_default(change: changes.ChangeRecord) -> bool:
    return is_default(change.path, change.before, change.after)


@audit.command("rejections")
@tenant_option
@since_option
@limit_option
@format_options
def list_rejections(*, output_format: Any, limit: int, **filters: Any) -> None:
    """Count, by hour, the messages that could not be read or authenticated.

    The tenant is the one that a message named, which does not prove that it sent the message.
    last_digest is the SHA-256 of the last message, to find that message by. --since includes the
    whole hour that contains the moment.

    \b
    Example:
      python -m worker audit rejections --tenant acme --since 1d
    """
    with open_database(read_transaction) as connection:
        page = rejections.read_rejection_counts(connection, limit, **filters)
    print_first_page(rejections.RejectionRecord._fields, page, output_format)


@audit.command("cancellations")
@tenant_option
@since_option
@limit_option
@format_options
def list_cancellations(*, output_format: Any, limit: int, **filters: Any) -> None:
    """List cancelled batches, newest first, with who cancelled them.

    \b
    Example:
      python -m worker audit cancellations --tenant acme
    """
    with open_database(read_transaction) as connection:
        page = cancellations.read_cancellations(connection, limit, **filters)
    print_first_page(cancellations.CancellationRecord._fields, page, output_format)
