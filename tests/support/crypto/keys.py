"""The service's view of a producer's private key."""

from valetkey.crypto.keys import PrivateKey, PublicKey, build_public_key
from worker.core.tenant_config import TenantKey


def tenant_key(key: PrivateKey) -> TenantKey:
    """Return a key as it is listed in the tenant config."""
    sign = str(key.signing_key.as_dict(private=False)["x"])
    seal = str(key.decryption_key.as_dict(private=False)["x"])
    return TenantKey(key.id.partition("/")[2], sign, seal)


def public_key(key: PrivateKey) -> PublicKey:
    """Return the public half of a key, which verifies and encrypts."""
    listed = tenant_key(key)
    return build_public_key(listed.sign, listed.seal)
