from datetime import timedelta

import pytest

from valetkey.units import format_duration, parse_duration, parse_size


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
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-1", "1.5MB", "1e3", "٣KB", "5 MB MB", "9" * 16])
def test_an_invalid_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="like 500KiB or 5MB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["5M", "5K", "5PB", "5m"])
def test_an_unknown_or_ambiguous_unit_of_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=f"unknown unit '{text[1:]}': use B, KB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800)],
)
def test_a_duration_is_parsed(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "h", "-1h", "1.5h", "1h30m"])
def test_an_invalid_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="like 15m or 1h"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["5M", "1w", "2hours"])
def test_an_unknown_unit_of_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=f"unknown unit '{text[1:]}': use s, m, h or d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-5, "0s"), (59.9, "59s"), (3_600, "1h"), (41_400, "11h 30m"), (200_000, "2d 7h")],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text
