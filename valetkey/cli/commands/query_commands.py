"""The commands that only read: service, status and usage."""

import time
from typing import Any

import click

from valetkey.cli.client_options import read_only_options
from valetkey.cli.commands import command_base
from valetkey.cli.parameter_types import GRANT_OR_BATCH_ID
from valetkey.cli.tables import is_settled, show_quotas, show_service, show_states
from valetkey.wire.replies import UseStates

_WATCH_SECONDS = 2.0  # between two queries of --watch


@click.command()
@read_only_options
def service(**options: Any) -> None:
    """Show the release of the service, and the versions, kinds and limits that it has.

    \b
    valetkey service
    valetkey service --json

    A tenant's policy may allow less.
    """
    with command_base.report_errors(options), command_base.open_client(options) as client:
        info = client.service(options["timeout"])
    show_service(info, options["output_format"])


@click.command()
@click.argument("subject", type=GRANT_OR_BATCH_ID, metavar="GRANT|BATCH")
@click.option(
    "--watch",
    is_flag=True,
    help="Continue until each grant was used or has ended, and show each change.",
)
@read_only_options
def status(subject: str, *, watch: bool, **options: Any) -> None:
    """Show the state of a grant, or how many grants of a batch are in each state.

    \b
    valetkey status 0199a000-0000-7000-8000-000000000000.0
    valetkey status 0199a000-0000-7000-8000-000000000000 --watch

    A grant's id is printed with --json, and is the column `id` of --csv. The part before the dot
    is the id of its batch.

    \b
    open         it can be used, and no use of it is known
    used         it was used as granted
    unused       the upload slot ended, and storage has no object of it
    late         the object was stored after the end of the grant
    mismatched   the object has another size, type or checksum than granted
    overwritten  another grant stored an object under the same key later
    unknown      it ended, and no use of it is known: downloads appear only in access logs
    refused      the item was not granted
    undecided    the item has not been decided yet

    The service looks into storage for a slot, and for those of a batch of up to 50 items. For a
    larger batch, it reports the uses that it knows.
    """
    with command_base.report_errors(options), command_base.open_client(options) as client:
        shown: UseStates | None = None
        while True:
            states = client.status(subject, timeout=options["timeout"])
            if states != shown:
                show_states(states, options["output_format"])
                shown = states
            if not watch or is_settled(states):
                return
            time.sleep(_WATCH_SECONDS)


@click.command()
@read_only_options
def usage(**options: Any) -> None:
    """Show the tenant's quotas and how much of each is used.

    \b
    valetkey usage
    valetkey usage --json

    A quota with the window `live` counts the grants that have not expired, the bytes of upload
    slots until they are settled, or what is stored. The other quotas reset at a fixed time in UTC.
    With --json, each quota is an object on a line of its own.
    """
    with command_base.report_errors(options), command_base.open_client(options) as client:
        quotas = client.usage(options["timeout"])
    if not quotas:
        click.echo("the tenant has no quotas", err=True)
    else:
        show_quotas(quotas, options["output_format"])
