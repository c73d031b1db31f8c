import sys
from typing import Any

import click

from valetkey.cli.arguments import cancel_options
from valetkey.cli.commands import base
from valetkey.cli.parameter_types import BATCH_ID
from valetkey.client import Client
from valetkey.errors import Refused
from valetkey.wire.refusals import Code


@click.command()
@click.argument("batch_id", type=BATCH_ID)
@click.option(
    "--abort-uploads",
    is_flag=True,
    help="Also abort unfinished multipart uploads of the batch, and give their bytes back.",
)
@cancel_options
def cancel(batch_id: str, reason: str | None, *, abort_uploads: bool, **options: Any) -> None:
    """Cancel a batch: grant no further items, and release its reserved quota.

    \b
    valetkey cancel 0199a000-0000-7000-8000-000000000000 --reason "wrong month"

    Grants that were issued before stay valid until they expire, and stay charged. A batch that has
    not reached the service yet is refused when it does; the command says so, and exits with 1.
    """
    with base.report_errors(options), base.open_client(options) as client:
        cancelled = client.cancel(batch_id, reason, options["timeout"], abort_uploads=abort_uploads)
        has_arrived = bool(cancelled.issued or cancelled.released) or _is_known(
            client, batch_id, options["timeout"]
        )
    if options["output_format"] == "json":
        click.echo(cancelled.model_dump_json(exclude_none=True))
    if not has_arrived:
        click.echo(
            f"no message of a batch {batch_id} of this tenant has reached the service: check the "
            "id. If the batch arrives later, it is refused",
            err=True,
        )
        sys.exit(1)
    if options["output_format"] is None:
        click.echo(
            f"cancelled: {cancelled.issued:,} granted before, {cancelled.released:,} released"
            + (f", {cancelled.aborting:,} uploads are aborted" if abort_uploads else "")
        )


def _is_known(client: Client, batch_id: str, timeout: float) -> bool:
    """Return whether any message of a batch has reached the service."""
    try:
        client.batch(batch_id, timeout)
    except Refused as error:
        if error.refusal.code == Code.BATCH_UNKNOWN:
            return False
        raise
    return True
