"""Signed messages (JWS) and sealed results (JWE), as compact tokens.

The recipient of a token fixes the accepted algorithms; the token's own header cannot change them.
Sources: RFC 7515, RFC 7516, RFC 8037, RFC 9864.
"""

import warnings
import zlib
from typing import Any

from joserfc import jwe, jws
from joserfc.errors import ExceededSizeError, JoseError, SecurityWarning, UnsupportedAlgorithmError
from joserfc.jwe import JWERegistry
from joserfc.jws import CompactSignature, JWSRegistry

from valetkey.crypto.keys import PrivateKey, PublicKey
from valetkey.wire.strict_json import decode_base64url, parse_json

MAX_MESSAGE_BYTES = 4 * 1024**2  # bytes before base64; 1,000 items with the longest keys fit
MAX_RESPONSE_BYTES = 16 * 1024**2  # bytes before base64, and after decompression
SEALING_ALGORITHMS = ("ECDH-ES", "A256GCM")  # key agreement and content encryption
GZIP = "gzip"  # the cty of a sealed result that is compressed
_SIGNATURE_ALGORITHMS = ("Ed25519", "EdDSA")  # two names of one algorithm: RFC 9864, RFC 8037
# A recipient must refuse extensions that it does not support: RFC 7515, 4.1.11, and RFC 7797.
_EXTENSION_HEADERS = frozenset({"crit", "b64"})


class InvalidToken(Exception):
    """A token is malformed, or fails its check."""


class TokenTooLarge(InvalidToken):
    """A token is larger than MAX_MESSAGE_BYTES or MAX_RESPONSE_BYTES."""


class WrongAlgorithm(InvalidToken):
    """A token names an algorithm that is not accepted."""


class WrongKey(InvalidToken):
    """A token is not signed by this key, or cannot be decrypted with it."""


def _jws_registry() -> JWSRegistry:
    registry = JWSRegistry(algorithms=_SIGNATURE_ALGORITHMS, strict_check_header=False)
    registry.max_payload_length = MAX_MESSAGE_BYTES * 4 // 3 + 4
    return registry


def _jwe_registry() -> JWERegistry:
    registry = JWERegistry(algorithms=SEALING_ALGORITHMS)
    registry.max_ciphertext_length = MAX_RESPONSE_BYTES * 4 // 3 + 4
    return registry


_JWS_REGISTRY, JWE_REGISTRY = _jws_registry(), _jwe_registry()


def sign(content: bytes, key: PrivateKey) -> str:
    """Sign content and return a compact JWS whose kid is the key's id."""
    header = {"alg": _SIGNATURE_ALGORITHMS[0], "kid": key.id}
    return jws.serialize_compact(header, content, key.signing_key, registry=_JWS_REGISTRY)


class SignedToken:
    """A compact JWS that is parsed but not verified.

    key_id is the token's own kid: unverified, and any JSON value. The constructor raises
    InvalidToken, or its subclasses TokenTooLarge and WrongAlgorithm.
    """

    def __init__(self, token: str) -> None:
        try:
            self._parts: CompactSignature = jws.extract_compact(
                token.encode(), registry=_JWS_REGISTRY
            )
            # joserfc skips what is no base64url, and takes the last of two equal members.
            encoded_header, *_ = map(decode_base64url, token.split("."))
            header: Any = parse_json(encoded_header)
        except ExceededSizeError:
            raise TokenTooLarge from None
        except (JoseError, ValueError, TypeError):
            raise InvalidToken from None
        if not isinstance(header, dict):
            raise InvalidToken
        if header.get("alg") not in _SIGNATURE_ALGORITHMS:
            raise WrongAlgorithm
        if header.keys() & _EXTENSION_HEADERS:
            raise InvalidToken
        self.key_id: Any = header.get("kid")

    def verify(self, key: PublicKey) -> bytes:
        """Verify the signature and return the payload.

        Raises WrongKey if another key signed the token or the token was altered, and InvalidToken
        if its header is invalid.
        """
        with warnings.catch_warnings():
            # joserfc warns about the name EdDSA, the only one that many libraries know.
            warnings.simplefilter("ignore", SecurityWarning)
            try:
                is_valid = jws.validate_compact(
                    self._parts, key.verification_key, registry=_JWS_REGISTRY
                )
            except (JoseError, ValueError, TypeError):
                raise InvalidToken from None
        if not is_valid:
            raise WrongKey
        return self._parts.payload


def recipient_key_id(token: str) -> str:
    """Return the kid of a sealed token: the key it claims to be encrypted to.

    Raises InvalidToken if it has none.
    """
    header = token.partition(".")[0]
    try:
        return str(parse_json(decode_base64url(header))["kid"])
    except (ValueError, LookupError, TypeError):
        raise InvalidToken from None


def unseal(token: str, key: PrivateKey) -> bytes:
    """Decrypt a sealed result, and decompress it if its cty is `gzip`.

    Raises WrongKey if it is malformed, altered or encrypted to another key; WrongAlgorithm; or
    TokenTooLarge.
    """
    try:
        decrypted = jwe.decrypt_compact(token, key.decryption_key, registry=JWE_REGISTRY)
    except UnsupportedAlgorithmError:
        raise WrongAlgorithm from None
    except ExceededSizeError:
        raise TokenTooLarge from None
    except (JoseError, LookupError, ValueError, TypeError):  # for example, epk is on another curve
        raise WrongKey from None
    if decrypted.plaintext is None:
        raise WrongKey
    is_compressed = decrypted.headers().get("cty") == GZIP
    return _decompress(decrypted.plaintext) if is_compressed else decrypted.plaintext


def _decompress(content: bytes) -> bytes:
    # Anyone can encrypt to a public key, so the decompressed size must be limited too.
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plaintext = decompressor.decompress(content, MAX_RESPONSE_BYTES)
    except zlib.error:
        raise WrongKey from None
    if not decompressor.eof:
        raise TokenTooLarge
    return plaintext
