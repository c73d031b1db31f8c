"""A tenant that signs, one that trusts the queue, and those who would speak for them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.support.builders.messages import POLICY, tenant_config
from tests.support.crypto.tokens import tenant_keys as public
from valetkey.crypto.keys import PrivateKey, generate_key
from worker.core.tenants.config import Endpoint, Tenant, TenantConfig, TenantKey

OURS, SPARE = generate_key("acme/main"), generate_key("acme/spare")
STRANGER = generate_key("acme/main")  # whom nobody declared
THEIRS, QUEUES = generate_key("globex/main"), generate_key("queueing/main")
HOOKS = {"hook": Endpoint("hook", "https://example.com/", "env:HOOK")}


def config_with_keys(*held: PrivateKey, **changes: Any) -> TenantConfig:
    """acme with these keys, and the other two."""
    return config_with_tenant_keys(public(*held), **changes)


def config_with_tenant_keys(keys: Mapping[str, TenantKey], **changes: Any) -> TenantConfig:
    """acme with keys as they are declared, and the other two."""
    acme = tenant_config(trust="keys", keys=keys, endpoints=HOOKS, **changes)
    policies = {"demo": replace(POLICY, prefixes=("queueing/",))}
    queueing = Tenant("queueing", "queue", policies=policies, keys=public(QUEUES))
    others = {"queueing": queueing, "globex": Tenant("globex", keys=public(THEIRS))}
    return TenantConfig(acme.buckets, {**acme.tenants, **others})
