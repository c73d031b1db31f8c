from typing import Any

import click

from valetkey.cli.arguments import read_only_options
from valetkey.cli.commands import base
from valetkey.cli.tables import show_quotas


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
    with base.report_errors(options), base.open_client(options) as client:
        quotas = client.usage(options["timeout"])
    if not quotas:
        click.echo("the tenant has no quotas", err=True)
    else:
        show_quotas(quotas, options["output_format"])
