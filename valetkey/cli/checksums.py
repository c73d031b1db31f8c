"""Checksums as people write them on the command line and in files."""

from pydantic import ValidationError

from valetkey.wire.terms import Checksum


def parse_checksum(text: str) -> Checksum:
    """Parse a checksum: its algorithm, a colon and its value in base64. Raises ValueError."""
    algorithm, _, value = text.partition(":")
    try:
        return Checksum.model_validate({"algorithm": algorithm, "value": value})
    except ValidationError:
        raise ValueError(
            "a checksum is sha256, crc32, crc32c or crc64nvme, then a colon and the value in base64"
        ) from None
