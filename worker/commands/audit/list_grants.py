"""Lists the audit log of grants."""

from typing import Any

import click

from worker.commands.database import open_database
from worker.commands.options import (
    format_options,
    limit_option,
    since_option,
    tenant_option,
    until_option,
)
from worker.commands.output import print_page
from worker.db.audit import grants
from worker.db.audit.grants import (
    AmbiguousCursor,
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


@click.command("list")
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
