"""The checksums that S3 compares, as an item of a message names them."""

import zlib
from base64 import b64encode
from hashlib import sha256

# Reflected, as they are computed: Castagnoli (RFC 3720) and NVM Express (Base Specification, 5.2).
_CASTAGNOLI = 0x82F63B78
_NVME = 0x9A6C9329AC4BC9B5
ALGORITHMS = ("sha256", "crc32", "crc32c", "crc64nvme")


def checksum(algorithm: str, file: bytes) -> dict[str, str]:
    """The checksum of a file, in base64 of the number's bytes, the highest first."""
    match algorithm:
        case "sha256":
            digest = sha256(file).digest()
        case "crc32":
            digest = zlib.crc32(file).to_bytes(4)
        case "crc32c":
            digest = _crc(file, 32, _CASTAGNOLI)
        case "crc64nvme":
            digest = _crc(file, 64, _NVME)
        case _:
            raise ValueError(algorithm)
    return {"algorithm": algorithm, "value": b64encode(digest).decode()}


def _crc(file: bytes, bits: int, polynomial: int) -> bytes:
    ones = (1 << bits) - 1
    rest = ones
    for byte in file:
        rest ^= byte
        for _ in range(8):
            rest = (rest >> 1) ^ (polynomial if rest & 1 else 0)
    return (rest ^ ones).to_bytes(bits // 8)
