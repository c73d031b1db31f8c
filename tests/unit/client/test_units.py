from collections.abc import Callable
from datetime import timedelta

import pytest

from valetkey import units


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        *((units.parse_size, text, number) for text, number in [("0", 0), ("1024", 1024)]),
        (units.parse_size, "7B", 7),
        (units.parse_size, "500KiB", 512_000),
        (units.parse_size, "500 kb", 500_000),
        (units.parse_size, "5MB", 5_000_000),
        (units.parse_size, "5TiB", 5 * 2**40),
        (units.parse_size, "5mib", 5_242_880),
        (units.parse_size, " 10GiB ", 10_737_418_240),
        *((units.parse_duration, text, 90) for text in ("90", "90s")),
        *((units.parse_duration, "15m", 900), (units.parse_duration, "1h", 3_600)),
        (units.parse_duration, "7d", 604_800),
    ],
)
def test_a_size_or_a_duration_is_parsed(
    parse: Callable[[str], int], text: str, expected: int
) -> None:
    assert parse(text) == expected


SIZES = ["", "MB", "-1", "1.5MB", "1e3", "٣KB", "5 MB MB", "9" * 16]
DURATIONS = ["", "h", "-1h", "1.5h", "1h30m"]


@pytest.mark.parametrize(
    ("parse", "text", "example"),
    [
        *((units.parse_size, text, "like 500KiB or 5MB") for text in SIZES),
        *((units.parse_duration, text, "like 15m or 1h") for text in DURATIONS),
    ],
)
def test_an_invalid_one_is_refused_with_an_example(
    parse: Callable[[str], int], text: str, example: str
) -> None:
    with pytest.raises(ValueError, match=example):
        parse(text)


@pytest.mark.parametrize(
    ("seconds", "rounded", "exact"),
    [
        (0, "0 seconds", "0 seconds"),
        (-5, "0 seconds", "0 seconds"),
        (1, "1 second", "1 second"),
        (90, "1 minute 30 seconds", "1 minute 30 seconds"),
        (3_600, "1 hour", "1 hour"),
        (41_400, "11 hours 30 minutes", "11 hours 30 minutes"),
        (86_399, "23 hours 59 minutes", "23 hours 59 minutes 59 seconds"),
        (200_000, "2 days 7 hours", "2 days 7 hours 33 minutes 20 seconds"),
        (604_800, "7 days", "7 days"),
    ],
)
def test_a_duration_has_two_units_at_most_or_is_described_exactly(
    seconds: int, rounded: str, exact: str
) -> None:
    assert units.format_duration(timedelta(seconds=seconds + 0.9)) == rounded
    assert units.describe_duration(seconds) == exact


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1_023, "1,023 bytes"),
        (5_242_880, "5 MiB (5,242,880 bytes)"),
        (5_000_000, "4.8 MiB (5,000,000 bytes)"),
        (5 * 2**40, "5 TiB (5,497,558,138,880 bytes)"),
    ],
)
def test_a_size_is_described_exactly(number: int, text: str) -> None:
    assert units.describe_size(number) == text


def test_only_amounts_of_metrics_in_bytes_are_sizes() -> None:
    assert units.describe_amount("upload_bytes", 1_024) == "1 KiB (1,024 bytes)"
    assert units.format_amount("upload_bytes", 1_024) == "1 KiB"
    assert units.describe_amount("grants", 1_024) == units.format_amount("grants", 1_024) == "1,024"
