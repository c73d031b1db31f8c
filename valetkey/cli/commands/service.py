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

    A tenant's policy may allow less.
    """
    with base.report_errors(options), base.open_client(options) as client:
        info = client.service(options["timeout"])
    show_service(info, options["output_format"])
