"""The division of a file into the parts of a multipart upload."""

from typing import NamedTuple

from valetkey.wire.terms import MAX_OBJECT_BYTES, MAX_PARTS, MIN_PART_BYTES

MEBIBYTE = 1024**2
DEFAULT_PART_BYTES = 16 * MEBIBYTE


class MultipartPlan(NamedTuple):
    """A file of `size` bytes in parts of `part_size` bytes; the last part holds the remainder."""

    size: int
    part_size: int

    @property
    def part_count(self) -> int:
        """The number of parts. An empty file has one part, which is empty."""
        return max(1, -(-self.size // self.part_size))

    def part_length(self, part: int) -> int:
        """Return the number of bytes of a part; parts are numbered from 1."""
        return min(self.part_size, self.size - (part - 1) * self.part_size)


class StartedUpload(NamedTuple):
    """A multipart upload that storage knows by upload_id."""

    upload_id: str
    plan: MultipartPlan


NO_UPLOAD = StartedUpload("", MultipartPlan(0, 1))
"""Stands for the upload of an item that belongs to no multipart upload."""


def plan_parts(size: int, part_size: int | None) -> MultipartPlan | None:
    """Divide a file of `size` bytes into parts, or return None if the parts break S3's limits.

    Without part_size, a part has 16 MiB, or as many whole MiB as 10,000 parts require
    (AWS: qfacts.html).
    """
    if part_size is None:
        required = -(-size // MAX_PARTS)
        part_size = max(DEFAULT_PART_BYTES, -(-required // MEBIBYTE) * MEBIBYTE)
    plan = MultipartPlan(size, part_size)
    fits = plan.part_count <= MAX_PARTS and MIN_PART_BYTES <= part_size <= MAX_OBJECT_BYTES
    return plan if fits else None
