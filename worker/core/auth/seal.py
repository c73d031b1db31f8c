"""Encrypts ("seals") responses to the requester's key. `valetkey.crypto.jose` decrypts them.

A compact JWE with ECDH-ES on X25519 and A256GCM, written with the primitives of `cryptography`:
joserfc, which producers decrypt it with, takes twice as long. Sources: RFC 7516, section 5.1;
RFC 7518, sections 4.6 and 5.3; RFC 8037, section 3.2.
"""

import json
import secrets
from base64 import urlsafe_b64encode
from typing import cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from isal import igzip

from valetkey.crypto.jose import GZIP, SEALING_ALGORITHMS
from valetkey.crypto.keys import PublicKey

_MIN_COMPRESSED_BYTES = 4_096  # below this size, compression costs more time than it saves
_AGREEMENT, _ENCRYPTION = SEALING_ALGORITHMS
_KEY_BYTES, _IV_BYTES, _TAG_BYTES = 32, 12, 16
# AlgorithmID with its length, PartyUInfo and PartyVInfo, which are empty, and SuppPubInfo.
_KDF_INFO = b"".join(
    (
        len(_ENCRYPTION).to_bytes(4),
        _ENCRYPTION.encode(),
        bytes(8),
        (_KEY_BYTES * 8).to_bytes(4),
    )
)


def seal(content: bytes, key_id: str, key: PublicKey) -> str:
    """Encrypt content as a compact JWE (RFC 7516) that only the owner of the private key can read.

    Content above 4,096 bytes is compressed to about a tenth, because URLs are similar; cty is then
    gzip. The token's length reveals no more than the number of granted items.
    """
    ephemeral_key = X25519PrivateKey.generate()
    epk = _base64url(ephemeral_key.public_key().public_bytes_raw()).decode()
    header = {"alg": _AGREEMENT, "enc": _ENCRYPTION, "kid": key_id}
    if len(content) > _MIN_COMPRESSED_BYTES:
        header["cty"] = GZIP
        # Takes a sixth of the time of the standard library's gzip.
        content = igzip.compress(content, compresslevel=1, mtime=0)
    protected = {**header, "epk": {"crv": "X25519", "x": epk, "kty": "OKP"}}
    encoded_header = _base64url(json.dumps(protected, separators=(",", ":")).encode())
    agreed = ephemeral_key.exchange(cast("X25519PublicKey", key.encryption_key.public_key))
    content_key = ConcatKDFHash(SHA256(), _KEY_BYTES, _KDF_INFO).derive(agreed)
    iv = secrets.token_bytes(_IV_BYTES)
    encrypted = AESGCM(content_key).encrypt(iv, content, encoded_header)
    ciphertext, tag = encrypted[:-_TAG_BYTES], encrypted[-_TAG_BYTES:]
    # The second part, the encrypted key, is empty: the agreed key itself encrypts the content.
    return b".".join((encoded_header, b"", *map(_base64url, (iv, ciphertext, tag)))).decode()


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
