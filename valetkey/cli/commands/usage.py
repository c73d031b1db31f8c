from typing import Any

import click

from valetkey.cli.arguments import query_options
from valetkey.cli.commands import base
from valetkey.cli.tables import show_quotas


@click.command()
@query_options
def usage(**said: Any) -> None:
    """Show how the tenant's quotas stand.

    \b
    valetkey usage
    valetkey usage --json

    A quota whose window is live counts what is granted and has not lapsed; the others start again
    at a moment in UTC. With --json, there is an object for each quota.
    """
    with base.report_errors(said), base.open_client(said) as client:
        quotas = client.usage(said["timeout"])
    if not quotas:
        click.echo("there are no quotas", err=True)
    else:
        show_quotas(quotas, said["form"])
