"""Shows the whole story of one grant or batch."""

import json

import click

from worker import clock
from worker.commands.audit.filter_options import note_pruned
from worker.commands.audit.grants.story_text import print_story
from worker.commands.database import open_database
from worker.commands.options import TEXT, chosen_zone, zone_option
from worker.commands.output import format_in_zone
from worker.db.engine import read_transaction
from worker.usecases.audit.find_story import UnknownGrant, find_story
from worker.usecases.audit.story_values import story_values


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
    now, zone_ = clock.now(), chosen_zone(context)
    with open_database(read_transaction) as connection:
        try:
            story = find_story(connection, grant, now)
        except UnknownGrant as error:
            raise click.BadParameter(str(error), param_hint="GRANT") from None
        if story.grant is None and story.counts.first is not None:
            note_pruned(connection, story.counts.first)
    values = story_values(story, now)
    if as_json:
        click.echo(json.dumps(values, default=lambda moment: format_in_zone(moment, zone_)))
    else:
        print_story(values, now, zone_)
