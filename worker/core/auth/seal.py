"""Answers sealed to whoever asked; valetkey.sealing opens them."""

from isal import igzip
from joserfc import jwe

from valetkey.crypto.jose import GZIP, JWE_REGISTRY, SEALING_ALGORITHMS
from valetkey.crypto.keys import PublicKey

_LONG = 4_096  # bytes: below it, compression costs more than it saves


def seal(content: bytes, key_id: str, key: PublicKey) -> str:
    """Seal content so that only the holder of the private key reads it.

    Links are much alike, so a long content is a tenth as long once it is compressed: its cty is
    then gzip. What could be guessed from a token's length is how many items were granted.
    """
    header = {"alg": SEALING_ALGORITHMS[0], "enc": SEALING_ALGORITHMS[1], "kid": key_id}
    if len(content) > _LONG:
        header["cty"] = GZIP
        content = igzip.compress(content, compresslevel=1, mtime=0)  # in a sixth of gzip's time
    return jwe.encrypt_compact(header, content, key.sealing, registry=JWE_REGISTRY)
