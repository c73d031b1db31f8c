"""A tenant that signs, one that trusts the queue, and those who would speak for them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.requests import POLICY, declared
from tests.signed import declared as public
from valetkey.identity import PrivateKey, generate
from worker.core.tenancy import Declared, Endpoint, Key, Tenant

OURS, SPARE = generate("acme/main"), generate("acme/spare")
STRANGER = generate("acme/main")  # whom nobody declared
THEIRS, QUEUES = generate("globex/main"), generate("queueing/main")
HOOKS = {"hook": Endpoint("hook", "https://example.com/", "env:HOOK")}


def known(*held: PrivateKey, **changes: Any) -> Declared:
    """acme with these keys, and the other two."""
    return holding(public(*held), **changes)


def holding(keys: Mapping[str, Key], **changes: Any) -> Declared:
    """acme with keys as they are declared, and the other two."""
    acme = declared(trust="keys", keys=keys, endpoints=HOOKS, **changes)
    policies = {"demo": replace(POLICY, prefixes=("queueing/",))}
    queueing = Tenant("queueing", "queue", policies=policies, keys=public(QUEUES))
    others = {"queueing": queueing, "globex": Tenant("globex", keys=public(THEIRS))}
    return Declared(acme.buckets, {**acme.tenants, **others})
