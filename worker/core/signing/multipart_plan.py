"""How a file is cut into the parts of a multipart upload."""

from typing import NamedTuple

from valetkey.wire.terms import MAX_OBJECT_BYTES, MAX_PARTS, MIN_PART_BYTES

MEBIBYTE = 1024**2
DEFAULT_PART_BYTES = 16 * MEBIBYTE


class MultipartPlan(NamedTuple):
    """size bytes, as part_count parts of part_size bytes, of which the last is the rest."""

    size: int
    part_size: int

    @property
    def part_count(self) -> int:
        """How many parts there are; an empty file has one, which is empty."""
        return max(1, -(-self.size // self.part_size))

    def length(self, part: int) -> int:
        """How many bytes a part has; parts are counted from 1."""
        return min(self.part_size, self.size - (part - 1) * self.part_size)


def plan_parts(size: int, part_size: int | None) -> MultipartPlan | None:
    """Cut a file of so many bytes, or None where the parts asked for are too many.

    Without part_size, parts are 16 MiB, or as many whole MiB more as 10,000 of them need
    (AWS: qfacts.html).
    """
    if part_size is None:
        needed = -(-size // MAX_PARTS)
        part_size = max(DEFAULT_PART_BYTES, -(-needed // MEBIBYTE) * MEBIBYTE)
    planned = MultipartPlan(size, part_size)
    fits = planned.part_count <= MAX_PARTS and MIN_PART_BYTES <= part_size <= MAX_OBJECT_BYTES
    return planned if fits else None
