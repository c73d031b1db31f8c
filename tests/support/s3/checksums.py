"""The checksums that S3 verifies, in the format of a message's items."""

import zlib
from base64 import b64encode
from hashlib import sha256

# Reflected polynomials: Castagnoli (RFC 3720) and NVM Express (Base Specification, 5.2).
_CASTAGNOLI = 0x82F63B78
_NVME = 0x9A6C9329AC4BC9B5
ALGORITHMS = ("sha256", "crc32", "crc32c", "crc64nvme")


def checksum(algorithm: str, file: bytes) -> dict[str, str]:
    """Return the checksum of a file: the base64 of its bytes, most significant byte first."""
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
    remainder = ones
    for byte in file:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (polynomial if remainder & 1 else 0)
    return (remainder ^ ones).to_bytes(bits // 8)
