from typing import Any

import click

from valetkey.arguments import telling
from valetkey.commands import asking
from valetkey.tables import show_quotas


@click.command()
@telling
def usage(**said: Any) -> None:
    """Show how the tenant's quotas stand.

    \b
    valetkey usage
    valetkey usage --json

    A quota whose window is live counts what is granted and has not lapsed; the others start again
    at a moment in UTC. With --json, there is an object for each quota.
    """
    with asking.explained(said), asking.client(said) as client:
        quotas = client.usage(said["timeout"])
    if not quotas:
        click.echo("there are no quotas", err=True)
    else:
        show_quotas(quotas, said["form"])
