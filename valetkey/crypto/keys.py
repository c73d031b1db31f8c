"""The keys of a producer: an Ed25519 key signs its messages, an X25519 key decrypts its results.

Both keys of a pair have the same id.
"""

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic_core import from_json

from valetkey.errors import NotConfigured

_ENCODED_LENGTH = 43  # characters of unpadded base64url for the 32 bytes of a public key
_P = 2**255 - 19
_Y_OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y = {0, 1, _P - 1, _Y_OF_ORDER_8, _P - _Y_OF_ORDER_8}
"""The y coordinates of the eight Ed25519 points of small order: RFC 8032, section 5.1."""


@dataclass(frozen=True)
class PrivateKey:
    """The producer's secret half of a key. id is TENANT/NAME, as in the tenant config."""

    id: str
    signing_key: OKPKey = field(repr=False)
    decryption_key: OKPKey = field(repr=False)

    @property
    def tenant(self) -> str:
        """The tenant that the key acts for."""
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class PublicKey:
    """The service's half of a key: verifies signatures and encrypts results."""

    verification_key: OKPKey
    encryption_key: OKPKey


def generate_key(key_id: str) -> PrivateKey:
    """Generate a key pair for signing (Ed25519) and one for encryption (X25519).

    key_id is TENANT/NAME. Uses the operating system's random source.
    """
    return PrivateKey(
        key_id, OKPKey.generate_key("Ed25519", private=True), OKPKey.generate_key("X25519")
    )


def dump_private_key(key: PrivateKey) -> str:
    """Return a private key as one line of JSON: a JWK Set, which any JOSE library can read.

    Sources: RFC 7517, section 5, and RFC 8037, section 2.
    """
    uses = (("sig", key.signing_key), ("enc", key.decryption_key))
    keys = [{"kid": key.id, "use": use, **jwk.as_dict(private=True)} for use, jwk in uses]
    return json.dumps({"keys": keys}, separators=(",", ":"))


def load_private_key(text: str) -> PrivateKey:
    """Parse the output of dump_private_key.

    Raises NotConfigured if it is anything else; the error repeats no part of text.
    """
    try:
        jwks = {jwk["use"]: jwk for jwk in from_json(text)["keys"]}
        signing_key = _import_private(jwks["sig"], "Ed25519")
        decryption_key = _import_private(jwks["enc"], "X25519")
        key_id = jwks["sig"]["kid"]
    except (JoseError, LookupError, TypeError, ValueError):
        key_id = None
    if not isinstance(key_id, str) or not all(key_id.partition("/")):
        raise NotConfigured(
            "the key is not what `valetkey keygen` writes: a JWK Set with one key for signing and "
            "one for encryption"
        )
    return PrivateKey(key_id, signing_key, decryption_key)


def public_key_line(key: PrivateKey) -> str:
    """Return the public half as a line for the table [tenants.TENANT.keys] of tenants.toml."""
    sign = signing_public_key(key)
    seal = key.decryption_key.as_dict(private=False)["x"]
    return f'{key.id.partition("/")[2]} = {{ sign = "{sign}", seal = "{seal}" }}'


def signing_public_key(key: PrivateKey) -> str:
    """Return the public half that verifies signatures, as tenants.toml has it in `sign`."""
    return str(key.signing_key.as_dict(private=False)["x"])


@lru_cache(maxsize=1_024)
def build_public_key(sign: str, seal: str) -> PublicKey:
    """Build a public key from its Ed25519 key and its X25519 key, each 32 bytes in base64url.

    Raises ValueError if either is malformed or unsafe.
    """
    verification_key = import_verification_key(sign)
    encryption_key = _import_public(seal, "X25519")
    # With some points, key agreement fails (RFC 7748, section 6.1). Detect it before the first
    # result is sealed.
    OKPKey.generate_key("X25519").exchange_derive_key(encryption_key)
    return PublicKey(verification_key, encryption_key)


def import_verification_key(x: str) -> OKPKey:
    """Import an Ed25519 public key of 32 bytes in base64url. Raises ValueError as above."""
    key = _import_public(x, "Ed25519")
    if int.from_bytes(urlsafe_b64decode(f"{x}="), "little") % 2**255 % _P in _SMALL_ORDER_Y:
        raise ValueError(
            "anybody can sign for this key: it is a point of small order, which `valetkey keygen` "
            "never generates"
        )
    return key


def derive_secret(key: PrivateKey, purpose: bytes) -> bytes:
    """Return 32 secret bytes that only the owner of the private key can compute, for a purpose."""
    private = str(key.signing_key.as_dict(private=True)["d"])
    return hmac.digest(private.encode(), purpose, "sha256")


def _import_private(jwk: dict[str, Any], curve: str) -> OKPKey:
    if jwk["crv"] != curve or "d" not in jwk:
        raise ValueError(curve)
    return _import_key({name: jwk[name] for name in ("kty", "crv", "x", "d")})


def _import_public(x: str, curve: str) -> OKPKey:
    # The last character has two unused bits. Accept one spelling only: the same key in another
    # spelling would count as a different key.
    has_valid_length = len(x) == _ENCODED_LENGTH
    if not has_valid_length or urlsafe_b64encode(urlsafe_b64decode(f"{x}=")).decode() != f"{x}=":
        raise ValueError(
            f"a public key for {curve} is {_ENCODED_LENGTH} characters of base64url, as "
            f"`valetkey keygen` prints it"
        )
    return _import_key({"kty": "OKP", "crv": curve, "x": x})


def _import_key(jwk: dict[str, Any]) -> OKPKey:
    try:
        return OKPKey.import_key(jwk)
    except JoseError:
        raise ValueError(f"not a valid key for {jwk['crv']}") from None
