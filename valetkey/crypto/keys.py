"""A producer's keys: one signs what it asks, one opens what is answered; their ids are alike."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic_core import from_json

from valetkey.errors import NotConfigured

_BYTES = 43  # characters of base64url for the 32 bytes of a key
_P = 2**255 - 19
_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL = {0, 1, _P - 1, _EIGHTH, _P - _EIGHTH}
"""The y of the eight points of Ed25519 that have a small order: RFC 8032, section 5.1."""


@dataclass(frozen=True)
class PrivateKey:
    """What a producer keeps to itself. id is TENANT/NAME, as the tenant's declaration has it."""

    id: str
    signing: OKPKey = field(repr=False)
    opening: OKPKey = field(repr=False)

    @property
    def tenant(self) -> str:
        """The tenant that the key speaks for."""
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class PublicKey:
    """What the service knows of a key: how to check what it signed, and how to seal to it."""

    checking: OKPKey
    sealing: OKPKey


def generate_key(key_id: str) -> PrivateKey:
    """Make a key pair for signing (Ed25519) and one for sealing (X25519), from the system's random.

    key_id is TENANT/NAME.
    """
    return PrivateKey(
        key_id, OKPKey.generate_key("Ed25519", private=True), OKPKey.generate_key("X25519")
    )


def dump_private_key(key: PrivateKey) -> str:
    """Write a private key as one line: a JWK Set, so that any JOSE library can use it.

    Source: RFC 7517, section 5, and RFC 8037, section 2.
    """
    uses = (("sig", key.signing), ("enc", key.opening))
    keys = [{"kid": key.id, "use": use, **one.as_dict(private=True)} for use, one in uses]
    return json.dumps({"keys": keys}, separators=(",", ":"))


def load_private_key(text: str) -> PrivateKey:
    """Read what `written` wrote. Raises NotConfigured, which repeats nothing of it."""
    try:
        keys = {key["use"]: key for key in from_json(text)["keys"]}
        signing, opening = _private(keys["sig"], "Ed25519"), _private(keys["enc"], "X25519")
        key_id = keys["sig"]["kid"]
    except (JoseError, LookupError, TypeError, ValueError):
        key_id = None
    if not isinstance(key_id, str) or not all(key_id.partition("/")):
        raise NotConfigured("the key is not what `valetkey keygen` writes")
    return PrivateKey(key_id, signing, opening)


def _private(key: dict[str, Any], curve: str) -> OKPKey:
    if key["crv"] != curve or "d" not in key:
        raise ValueError(curve)
    return _imported({name: key[name] for name in ("kty", "crv", "x", "d")})


def public_key_line(key: PrivateKey) -> str:
    """Write the public half as a line for [tenants.TENANT.keys] of tenants.toml."""
    sign, seal = (one.as_dict(private=False)["x"] for one in (key.signing, key.opening))
    return f'{key.id.partition("/")[2]} = {{ sign = "{sign}", seal = "{seal}" }}'


@lru_cache(maxsize=1_024)
def load_public_key(sign: str, seal: str) -> PublicKey:
    """Put a public key together from its two halves, each 32 bytes in base64url.

    Raises ValueError where they are no such keys.
    """
    checking, sealing = _public(sign, "Ed25519"), _public(seal, "X25519")
    if int.from_bytes(urlsafe_b64decode(f"{sign}="), "little") % 2**255 % _P in _SMALL:
        raise ValueError("anybody can sign for this key")
    # Some points agree on no secret (RFC 7748, section 6.1): better said here than at an answer.
    OKPKey.generate_key("X25519").exchange_derive_key(sealing)
    return PublicKey(checking, sealing)


def _public(x: str, curve: str) -> OKPKey:
    # Its last character has two bits to spare: in another spelling it would look like another key.
    if len(x) != _BYTES or urlsafe_b64encode(urlsafe_b64decode(f"{x}=")).decode() != f"{x}=":
        raise ValueError(f"a key for {curve} is {_BYTES} characters of base64url")
    return _imported({"kty": "OKP", "crv": curve, "x": x})


def _imported(jwk: dict[str, Any]) -> OKPKey:
    try:
        return OKPKey.import_key(jwk)
    except JoseError:
        raise ValueError(f"this is no key for {jwk['crv']}") from None
