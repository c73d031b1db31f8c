from typing import Any

import click

from worker.adapters import log
from worker.adapters.database import reading
from worker.adapters.log import AmbiguousPlace, Count, Entry, Place, UnknownPlace, Wanted
from worker.audit import page
from worker.commands.audit_logs import list_cancellations, list_changes, list_rejections
from worker.commands.moments import read_moment
from worker.commands.opened import opened
from worker.commands.output import form_options, limit_option, show, show_page

_LONGEST_NUMBER = 9  # digits: a batch has fewer items than that


def _place(_context: click.Context, _option: click.Parameter, text: str | None) -> Place | None:
    if text is None:
        return None
    tenant, _, grant = text.rpartition("/")
    batch, _, item = grant.partition(".")
    if not (item.isascii() and item.isdecimal() and len(item) <= _LONGEST_NUMBER):
        raise click.BadParameter(
            "a grant's id is BATCH.NUMBER, as the last column has it, or TENANT/BATCH.NUMBER"
        )
    return Place(batch, int(item), tenant or None)


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
    "--since", callback=read_moment, help="Not before: 2h, 2d ago, 2026-11-24, 2026-11-24T08:30."
)
@click.option(
    "--until", callback=read_moment, help="Before, in the same forms; without a zone, UTC."
)
@click.option("--batch", help="Only of the request with this id.")
@click.option("--grant", callback=_place, help="Only the item with this id.")
@limit_option
@click.option("--after", callback=_place, help="Begin behind the item with this id.")
@form_options
@click.pass_context
def list_entries(
    context: click.Context, /, *, limit: int, after: Place | None, form: Any, **asked: Any
) -> None:
    """List items that were asked for, newest first: issued, or the refusal's code.

    \b
    Examples:
      python -m worker audit list --tenant acme --decision refused --since 1d
      python -m worker audit list --key acme/2026/11/u-1.pdf --json
      python -m worker audit list --tenant acme --signed-by billing-2026
    """
    try:
        with opened(reading) as connection:
            found = page(connection, Wanted(**asked), limit, after)
    except UnknownPlace:
        raise click.BadParameter("there is no such batch", param_hint="--after") from None
    except AmbiguousPlace:
        text = "several tenants have such a batch: TENANT/BATCH.NUMBER says whose"
        raise click.BadParameter(text, param_hint="--after") from None
    show_page(context, Entry._fields, found.entries, form, found.after)


@audit.command()
@click.option("--tenant", help="Only of this tenant.")
@click.option("--since", callback=read_moment, help="Not before, as in `audit list`.")
@click.option("--until", callback=read_moment, help="Before, as in `audit list`.")
@form_options
def summary(*, form: Any, **asked: Any) -> None:
    """Count what was issued and refused, by tenant and kind.

    \b
    Example:
      python -m worker audit summary --since 1d
    """
    with opened(reading) as connection:
        show(Count._fields, log.counts(connection, Wanted(**asked)), form)


for command in (list_changes, list_rejections, list_cancellations):
    audit.add_command(command)
