"""Numbers of items as ranges, such as 0-5,9: how `settlements.unused` lists them."""

from collections.abc import Iterable


def format_ranges(items: Iterable[int]) -> str:
    """Return the numbers as ranges in ascending order; "" for none."""
    ranges: list[list[int]] = []
    for item in sorted(set(items)):
        if ranges and ranges[-1][1] == item - 1:
            ranges[-1][1] = item
        else:
            ranges.append([item, item])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def parse_ranges(text: str) -> list[int]:
    """Return the numbers in the ranges, in ascending order. Raises ValueError for another text."""
    items: list[int] = []
    for part in text.split(",") if text else ():
        low, _, high = part.partition("-")
        items += range(int(low), int(high or low) + 1)
    return items
