"""What of a declaration somebody should know who runs it, though it is no mistake."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from worker.core.tenancy import Declared, Key, Tenant

SOON = timedelta(days=30)
"""So long before its end it is said that a key expires."""


class Risk(NamedTuple):
    """One of these: what, of which tenant and key, in a sentence, and what to do."""

    code: Literal["trusts_queue", "no_usable_key", "key_expired", "key_expires_soon"]
    tenant: str
    key: str | None
    message: str
    hint: str


def risks(declared: Declared, now: datetime) -> list[Risk]:
    """Who trusts the queue, whose keys have expired or soon will, and who has none to use."""
    return [risk for tenant in declared.tenants.values() for risk in _of_tenant(tenant, now)]


def usable(key: Key | None, now: datetime) -> bool:
    """Whether what a key signs is taken at this moment."""
    return key is not None and not key.revoked and (key.expires is None or now < key.expires)


def _of_tenant(tenant: Tenant, now: datetime) -> Iterator[Risk]:
    keygen = f"valetkey keygen {tenant.name}"
    if tenant.trust == "queue":
        text = f"{tenant.name} trusts the queue: whoever can write to it speaks for {tenant.name}"
        yield Risk("trusts_queue", tenant.name, None, text, f"give it keys: {keygen}")
    elif not any(usable(key, now) for key in tenant.keys.values()):
        text = f"{tenant.name} has no usable key: everything it asks is refused"
        yield Risk("no_usable_key", tenant.name, None, text, f"make one: {keygen}")
    for key in tenant.keys.values():
        yield from _of_key(tenant.name, key, now)


def _of_key(tenant: str, key: Key, now: datetime) -> Iterator[Risk]:
    if key.expires is None or key.revoked or now + SOON < key.expires:
        return
    day = f"{key.expires:%Y-%m-%d %H:%M} UTC"
    if key.expires <= now:
        text = f"key {tenant}/{key.name} expired on {day}: what it signs is refused"
        yield Risk("key_expired", tenant, key.name, text, "remove it once nothing uses it")
    else:
        text = f"key {tenant}/{key.name} expires on {day}"
        hint = f"declare a second one before that: valetkey keygen {tenant}"
        yield Risk("key_expires_soon", tenant, key.name, text, hint)
