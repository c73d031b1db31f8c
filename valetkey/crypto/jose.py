"""Signed messages (JWS) and sealed answers (JWE), as compact tokens.

Who checks a token says which algorithms it may have; what the token says of itself decides
nothing. Sources: RFC 7515, RFC 7516, RFC 8037, RFC 9864.
"""

import warnings
import zlib
from base64 import urlsafe_b64decode
from typing import Any

from joserfc import jwe, jws
from joserfc.errors import ExceededSizeError, JoseError, SecurityWarning, UnsupportedAlgorithmError
from joserfc.jwe import JWERegistry
from joserfc.jws import CompactSignature, JWSRegistry
from pydantic_core import from_json

from valetkey.crypto.keys import PrivateKey, PublicKey

MAX_MESSAGE_BYTES = 4 * 1024**2  # bytes before base64: 1,000 items of the longest keys fit
MAX_RESPONSE_BYTES = 16 * 1024**2
_SIGNED = ("Ed25519", "EdDSA")  # one algorithm under its name of today and of RFC 8037
SEALING_ALGORITHMS = ("ECDH-ES", "A256GCM")
# Whoever does not know all of an extension has to refuse it: RFC 7515, 4.1.11, and RFC 7797.
_EXTENDING = frozenset({"crit", "b64"})
GZIP = "gzip"


class InvalidToken(Exception):
    """A token is not what it has to be."""


class TokenTooLarge(InvalidToken):
    """A token is larger than any message or answer."""


class WrongAlgorithm(InvalidToken):
    """A token names an algorithm that is not used here."""


class WrongKey(InvalidToken):
    """A token was not signed, or cannot be opened, by this key."""


def _jws() -> JWSRegistry:
    registry = JWSRegistry(algorithms=_SIGNED, strict_check_header=False)
    registry.max_payload_length = MAX_MESSAGE_BYTES * 4 // 3 + 4
    return registry


def _jwe() -> JWERegistry:
    registry = JWERegistry(algorithms=SEALING_ALGORITHMS)
    registry.max_ciphertext_length = MAX_RESPONSE_BYTES * 4 // 3 + 4
    return registry


_JWS, JWE_REGISTRY = _jws(), _jwe()


def sign(content: bytes, key: PrivateKey) -> str:
    """Sign content by a producer's key."""
    return jws.serialize_compact(
        {"alg": _SIGNED[0], "kid": key.id}, content, key.signing, registry=_JWS
    )


class SignedToken:
    """A signed token, taken apart and not yet believed. Raises BadToken."""

    def __init__(self, token: str) -> None:
        try:
            self._parts: CompactSignature = jws.extract_compact(token.encode(), registry=_JWS)
        except ExceededSizeError:
            raise TokenTooLarge from None
        except (JoseError, ValueError, TypeError):
            raise InvalidToken from None
        header: Any = self._parts.headers()
        if not isinstance(header, dict):
            raise InvalidToken
        if header.get("alg") not in _SIGNED:
            raise WrongAlgorithm
        if header.keys() & _EXTENDING:
            raise InvalidToken
        self.key_id: Any = header.get("kid")

    def content(self, key: PublicKey) -> bytes:
        """What was signed, where it was by this key. Raises NotItsKey, else BadToken."""
        with warnings.catch_warnings():
            # joserfc would have everyone write Ed25519, and many a library only knows EdDSA.
            warnings.simplefilter("ignore", SecurityWarning)
            try:
                genuine = jws.validate_compact(self._parts, key.checking, registry=_JWS)
            except (JoseError, ValueError, TypeError):  # its header is not what it has to be
                raise InvalidToken from None
        if not genuine:
            raise WrongKey
        return self._parts.payload


def recipient_key_id(token: str) -> str:
    """The id of the key that a token says it is sealed to. Raises BadToken."""
    header = token.partition(".")[0]
    try:
        return str(from_json(urlsafe_b64decode(header + "==="))["kid"])
    except (ValueError, LookupError, TypeError):
        raise InvalidToken from None


def unseal(token: str, key: PrivateKey) -> bytes:
    """Open a sealed answer. Raises NotItsKey where it is sealed to another key, or altered."""
    try:
        opened = jwe.decrypt_compact(token, key.opening, registry=JWE_REGISTRY)
    except UnsupportedAlgorithmError:
        raise WrongAlgorithm from None
    except ExceededSizeError:
        raise TokenTooLarge from None
    except (JoseError, LookupError, ValueError, TypeError):  # as where epk is on another curve
        raise WrongKey from None
    if opened.plaintext is None:
        raise WrongKey
    is_long = opened.headers().get("cty") == GZIP
    return _decompressed(opened.plaintext) if is_long else opened.plaintext


def _decompressed(content: bytes) -> bytes:
    # Anybody may seal to a public key: what it unfolds to is bounded, too.
    unfolding = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = unfolding.decompress(content, MAX_RESPONSE_BYTES)
    except zlib.error:
        raise WrongKey from None
    if not unfolding.eof:
        raise TokenTooLarge
    return plain
