from datetime import timedelta

import pytest

from valetkey import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1024", 1024),
        ("7B", 7),
        ("500KiB", 512_000),
        ("500 kb", 500_000),
        ("5MB", 5_000_000),
        ("5TiB", 5 * 2**40),
        ("5mib", 5_242_880),
        (" 10GiB ", 10_737_418_240),
    ],
)
def test_a_size_is_parsed(text: str, expected: int) -> None:
    assert units.parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-1", "1.5MB", "1e3", "٣KB", "5 MB MB", "9" * 16])
def test_an_invalid_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="like 500KiB or 5MB"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800)],
)
def test_a_duration_is_parsed(text: str, expected: int) -> None:
    assert units.parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "h", "-1h", "1.5h", "1h30m"])
def test_an_invalid_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="like 15m or 1h"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (-5, "0 seconds"),
        (59.9, "59 seconds"),
        (3_600, "1 hour"),
        (41_400, "11 hours 30 minutes"),
        (200_000, "2 days 7 hours"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert units.format_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (90, "1 minute 30 seconds"),
        (3_600, "1 hour"),
        (86_399, "23 hours 59 minutes 59 seconds"),
        (604_800, "7 days"),
    ],
)
def test_a_duration_is_described_exactly(seconds: int, text: str) -> None:
    assert units.describe_duration(seconds) == text


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
