"""The argument TENANT/ENDPOINT of commands, as lists and doctor print it."""

import click

from worker.rules.tenant_config import Tenant, TenantConfig, WebhookEndpoint
from worker.shared.command_options import Command
from worker.shared.pages import did_you_mean


def endpoint_argument(command: Command) -> Command:
    """Add TENANT/ENDPOINT to a command, as its parameter name."""
    return click.argument("name", metavar="TENANT/ENDPOINT")(command)


def endpoint_names(config: TenantConfig) -> list[str]:
    """Return the names of all endpoints."""
    return [f"{each.name}/{hook}" for each in config.tenants.values() for hook in each.endpoints]


def find_endpoint(config: TenantConfig, name: str) -> tuple[Tenant, WebhookEndpoint]:
    """Return an endpoint, of a tenant's name or id. Raises click.BadParameter."""
    owner, _, hook = name.partition("/")
    tenant = config.tenants.get(owner) or config.tenant_by_id(owner)
    if tenant is None or hook not in tenant.endpoints:
        hint = did_you_mean(name, endpoint_names(config), "see python -m worker webhooks endpoints")
        text = f"there is no endpoint {name!r}{hint}"
        raise click.BadParameter(text, param_hint="TENANT/ENDPOINT")
    return tenant, tenant.endpoints[hook]
