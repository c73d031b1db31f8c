"""Shows the whole story of one grant or batch."""

import json
from datetime import datetime

import click
from sqlalchemy import Connection

from worker import clock
from worker.commands.audit.filter_options import note_pruned
from worker.commands.audit.grants.story_text import print_story
from worker.commands.audit.grants.story_values import story_values
from worker.commands.database import open_database
from worker.commands.options import TEXT, chosen_zone, zone_option
from worker.commands.output import format_in_zone
from worker.db.audit.selection.batch_ids import find_batches
from worker.db.audit.selection.tenant_filter import find_tenant_ids
from worker.db.audit.stories.grant_story import Story, read_story
from worker.db.engine import read_transaction
from worker.db.retention.pruned_items import pruned_item_month

_MAX_ITEM_DIGITS = 9


@click.command("show")
@click.argument("grant", type=TEXT)
@zone_option
@click.option("--json", "as_json", is_flag=True, help="Print the story as one JSON object.")
@click.pass_context
def show(context: click.Context, /, *, grant: str, zone: object, as_json: bool) -> None:  # noqa: ARG001 - chosen_zone has the zone
    """Show everything that is known about GRANT: [TENANT/]BATCH.NUMBER, or a batch's id.

    Who requested it and for whom, what decided, until when it is valid and why, how often it was
    signed and delivered, what it was charged, and what became of it. Never shows a link, a
    signature or a token.

    \b
    Examples:
      python -m worker audit show 0199a000-0000-7000-8000-000000000000.7
      python -m worker audit show acme/0199a000-0000-7000-8000-000000000000 --json
    """
    tenant, batch_id, item_number = _parse(grant)
    now, zone_ = clock.now(), chosen_zone(context)
    with open_database(read_transaction) as connection:
        story = _find(connection, tenant, batch_id, item_number, now)
        if story.grant is None and story.counts.first is not None:
            note_pruned(connection, story.counts.first)
    values = story_values(story, now)
    if as_json:
        click.echo(json.dumps(values, default=lambda moment: format_in_zone(moment, zone_)))
    else:
        print_story(values, now, zone_)


def _parse(text: str) -> tuple[str | None, str, int | None]:
    tenant, _, id_ = text.strip().rpartition("/")
    batch_id, dot, number = id_.partition(".")
    if not dot:
        return tenant or None, batch_id.lower(), None
    if not (number.isascii() and number.isdecimal() and len(number) <= _MAX_ITEM_DIGITS):
        raise _unknown("a grant's id is [TENANT/]BATCH.NUMBER, a batch's id has no number")
    return tenant or None, batch_id.lower(), int(number)


def _find(
    connection: Connection,
    tenant: str | None,
    batch_id: str,
    item_number: int | None,
    now: datetime,
) -> Story:
    batches = find_batches(connection, batch_id)
    if not batches:
        raise _unknown(
            "the audit log has no batch with this id: find a grant with `audit list --key KEY` or"
            " `audit list --requester NAME --since 1d`"
        )
    ids = None if tenant is None else find_tenant_ids(connection, tenant)
    selected = [(id_, number) for id_, number in batches if ids is None or id_ in ids]
    item = "" if item_number is None else f".{item_number}"
    names = [f"{id_}/{batch_id}{item}" for id_, _ in selected or batches]
    if not selected:
        raise _unknown(f"{tenant} has no batch with this id: did you mean {' or '.join(names)}?")
    if len(selected) > 1:
        raise _unknown(f"several tenants have a batch with this id: {' or '.join(names)}?")
    story = read_story(connection, selected[0][1], item_number, now)
    if story is None:
        rest = f"`audit show {names[0].rpartition('.')[0]}` shows"
        month = pruned_item_month(connection, selected[0][1], item_number or 0)
        if month is not None:
            raise _unknown(
                f"item {item_number} of this batch was removed by `audit prune --before {month}`:"
                f" {rest} what is kept"
            )
        raise _unknown(
            f"item {item_number} of this batch was not decided: {rest} how many items there are"
        )
    return story


def _unknown(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="GRANT")
