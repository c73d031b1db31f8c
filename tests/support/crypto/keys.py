"""Producers' keys, and what the service knows of them."""

from valetkey.crypto.keys import PrivateKey, PublicKey, load_public_key
from worker.core.tenants.config import TenantKey


def tenant_key(key: PrivateKey) -> TenantKey:
    """A key as its tenant's declaration has it."""
    sign, seal = (str(one.as_dict(private=False)["x"]) for one in (key.signing, key.opening))
    return TenantKey(key.id.partition("/")[2], sign, seal)


def public_half(key: PrivateKey) -> PublicKey:
    """A key's public half, to check and to seal with."""
    halves = tenant_key(key)
    return load_public_key(halves.sign, halves.seal)
