"""How a file is cut into the parts of a multipart upload."""

from typing import NamedTuple

from valetkey.terms import LARGEST_OBJECT, MOST_PARTS, SMALLEST_PART

MEBIBYTE = 1024**2
USUAL_PART = 16 * MEBIBYTE


class Plan(NamedTuple):
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


def plan(size: int, part_size: int | None) -> Plan | None:
    """Cut a file of so many bytes, or None where the parts asked for are too many.

    Without part_size, parts are 16 MiB, or as many whole MiB more as 10,000 of them need
    (AWS: qfacts.html).
    """
    if part_size is None:
        needed = -(-size // MOST_PARTS)
        part_size = max(USUAL_PART, -(-needed // MEBIBYTE) * MEBIBYTE)
    planned = Plan(size, part_size)
    fits = planned.part_count <= MOST_PARTS and SMALLEST_PART <= part_size <= LARGEST_OBJECT
    return planned if fits else None
