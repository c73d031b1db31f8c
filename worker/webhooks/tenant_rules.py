"""Checks the webhook endpoints in a tenants file."""

import os
from collections.abc import Iterator

from worker.errors import Transient
from worker.rules.tenant_config import Tenant
from worker.tenants.config_conflicts import Conflict
from worker.webhooks.webhook_secrets import MalformedSecret, read_secrets, secret_reference_error
from worker.webhooks.webhook_settings import WebhookSettings
from worker.webhooks.webhook_urls import VIOLATION_TEXTS, UrlViolation, parse_webhook_url

_SECRET_HINT = "create a secret: python -m worker webhooks secret new FILE"  # noqa: S105 - a hint


def find_endpoint_conflicts(tenant: Tenant) -> Iterator[Conflict]:
    """Find the endpoints of a tenant whose URL or secrets cannot be used."""
    development = WebhookSettings().development
    for endpoint in tenant.endpoints.values():
        location = ("tenants", tenant.name, "endpoints", endpoint.name)
        url = parse_webhook_url(endpoint.url, development=development)
        if isinstance(url, UrlViolation):
            message = f"webhooks cannot be sent to this URL ({url}): {VIOLATION_TEXTS[url]}"
            yield Conflict((*location, "url"), message)
        if error := secret_reference_error(endpoint.secret):
            yield Conflict((*location, "secret"), error)
        elif error := _secret_error(endpoint.secret):
            yield Conflict((*location, "secret"), error, _SECRET_HINT)


def _secret_error(ref: str) -> str | None:
    """Return what is wrong with the secrets behind a reference, if they can be read here.

    The upkeep worker may run elsewhere: `doctor` reports there what cannot be read.
    """
    try:
        read_secrets(ref, os.environ)
    except MalformedSecret as malformed:
        return str(malformed)
    except Transient:
        pass
    return None
