"""Writes numbers of items as ranges, such as 0-5,9, and reads them."""

from collections.abc import Iterable, Iterator


def format_items(numbers: Iterable[int]) -> str:
    """Write numbers as ranges, in ascending order."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in parts)


def parse_items(text: str) -> Iterator[range]:
    """Yield the ranges of a text that `format_items` wrote."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield range(int(first), int(last or first) + 1)
