"""Producers' keys, and what the service knows of them."""

from valetkey.identity import PrivateKey, PublicKey, public_key
from worker.core.tenancy import Key


def declared(key: PrivateKey) -> Key:
    """A key as its tenant's declaration has it."""
    sign, seal = (str(one.as_dict(private=False)["x"]) for one in (key.signing, key.opening))
    return Key(key.id.partition("/")[2], sign, seal)


def public(key: PrivateKey) -> PublicKey:
    """A key's public half, to check and to seal with."""
    halves = declared(key)
    return public_key(halves.sign, halves.seal)
