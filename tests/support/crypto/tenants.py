"""Tenants with keys: acme and globex sign their messages, queueing trusts the queue."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.support.builders.messages import POLICY, tenant_config
from tests.support.crypto.tokens import tenant_keys
from valetkey.crypto.keys import PrivateKey, generate_key
from worker.rules.tenant_config import Tenant, TenantConfig, TenantKey, WebhookEndpoint

ACME_KEY, ACME_SPARE_KEY = generate_key("acme/main"), generate_key("acme/spare")
IMPOSTOR_KEY = generate_key("acme/main")  # has the id of ACME_KEY, but is in no tenant config
GLOBEX_KEY, QUEUEING_KEY = generate_key("globex/main"), generate_key("queueing/main")
ENDPOINTS = {"hook": WebhookEndpoint("hook", "https://example.com/", "env:HOOK")}


def config_with_keys(*keys: PrivateKey, **changes: Any) -> TenantConfig:
    """Return a config in which acme has these keys, and globex and queueing their own."""
    return config_with_tenant_keys(tenant_keys(*keys), **changes)


def config_with_tenant_keys(keys: Mapping[str, TenantKey], **changes: Any) -> TenantConfig:
    """Do the same as config_with_keys, for keys as they are listed in the config."""
    acme = tenant_config(trust="keys", keys=keys, endpoints=ENDPOINTS, **changes)
    policies = {"demo": replace(POLICY, prefixes=("queueing/",))}
    queueing = Tenant("queueing", "queue", policies=policies, keys=tenant_keys(QUEUEING_KEY))
    globex = Tenant("globex", keys=tenant_keys(GLOBEX_KEY))
    return TenantConfig(acme.buckets, {**acme.tenants, "queueing": queueing, "globex": globex})
