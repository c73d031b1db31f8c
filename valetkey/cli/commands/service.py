from typing import Any

import click

from valetkey.cli.arguments import read_only_options
from valetkey.cli.commands import base
from valetkey.cli.tables import show_service


@click.command()
@read_only_options
def service(**options: Any) -> None:
    """Show the release of the service, and the versions, kinds and limits that it has.

    \b
    valetkey service
    valetkey service --json

    A tenant's policy may allow less. A service that is too old to tell has the limits of the first
    release.
    """
    with base.report_errors(options), base.open_client(options) as client:
        info = client.service(options["timeout"])
    if info.release is None:
        text = "the service is older than this client and does not tell: as in the first release"
        click.echo(text, err=True)
    show_service(info, options["output_format"])
