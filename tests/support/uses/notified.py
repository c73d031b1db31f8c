"""Requests that ask for webhooks about their uploads, and a config with their endpoint."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from tests.support.builders.messages import tenant_config, upload_message
from tests.support.builders.services import InProcessService
from worker.context import Context
from worker.core.tenants.config import TenantConfig, WebhookEndpoint
from worker.net.webhook_client import WebhookClient

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
ALL_EVENTS = ("upload.stored", "upload.unused", "upload.mismatched")


def config_with_hook(port: int) -> TenantConfig:
    """Return a config in which acme has an endpoint on loopback."""
    endpoint = WebhookEndpoint("hook", f"http://127.0.0.1:{port}/hook", "env:HOOK")
    return tenant_config(endpoints={"hook": endpoint})


def notified_upload(
    keys: Sequence[str] = ("acme/a.png",), notify: Sequence[str] = ALL_EVENTS, **changes: Any
) -> dict[str, Any]:
    """Return a request for upload forms that asks for webhooks, with changed terms."""
    return upload_message(keys, **changes) | {"callback": "hook", "notify": list(notify)}


def delivering_context(service: InProcessService) -> Context:
    """Return the context of a process that sends webhooks to loopback."""
    return replace(
        service.context,
        webhook_client=cache(lambda: WebhookClient(development=True)),
        environ={"HOOK": SECRET},
        random=lambda: 0.5,
    )
