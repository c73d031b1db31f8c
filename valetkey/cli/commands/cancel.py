from typing import Any

import click

from valetkey.cli.arguments import BATCH, change_options
from valetkey.cli.commands import base


@click.command()
@click.argument("batch_id", type=BATCH)
@change_options
def cancel(batch_id: str, reason: str | None, **said: Any) -> None:
    """Grant nothing more of a batch, and release its reserve.

    \b
    valetkey cancel 0199a000-0000-7000-8000-000000000000 --reason "wrong month"

    What was granted is out, and stays
    charged. A batch that has not arrived yet is refused when it does.
    """
    with base.report_errors(said), base.open_client(said) as client:
        cancelled = client.cancel(batch_id, reason, said["timeout"])
    if said["form"] == "json":
        click.echo(cancelled.model_dump_json())
    else:
        click.echo(
            f"cancelled: {cancelled.issued:,} granted before, {cancelled.released:,} released"
        )
