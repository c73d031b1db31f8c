"""The group of commands about webhooks: their endpoints, deliveries and secrets."""

import click

from valetkey.cli.command_groups import LazyGroup

_COMMANDS = {
    "disable": "webhooks.endpoint_commands:disable",
    "enable": "webhooks.endpoint_commands:enable",
    "endpoints": "webhooks.endpoint_commands:list_endpoints",
    "key": "webhooks.secret_commands:key",
    "list": "webhooks.delivery_commands:list_deliveries",
    "manifests": "webhooks.delivery_commands:list_manifests",
    "resend": "webhooks.resend_command:resend",
    "secret": "webhooks.secret_commands:secret",
    "show": "webhooks.delivery_commands:show_delivery",
    "test": "webhooks.endpoint_trial:test_endpoint",
}


@click.group(cls=LazyGroup, package="worker", lazy_commands=_COMMANDS)
def webhooks() -> None:
    """Show, test and repair the delivery of webhooks, and the endpoints that receive them."""
