"""Reads single values of the audit log, and refuses what the service would not have written."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from worker.core.tree.merkle import HASH_BYTES


class WrongValue(ValueError):
    """A value that its column cannot have, with the name of that column."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"{column} {problem}")
        self.column = column
        self.problem = problem


Reader = Callable[[str, Any], Any]


def read_row(readers: Mapping[str, Reader], row: tuple[Any, ...]) -> dict[str, Any]:
    """Read a row's values, in the order of the readers. Raises WrongValue."""
    return {
        column: reader(column, value)
        for (column, reader), value in zip(readers.items(), row, strict=True)
    }


def text(column: str, value: Any) -> str:
    """Return a text. Raises WrongValue."""
    if not isinstance(value, str):
        raise WrongValue(column, "is no text")
    return value


def number(column: str, value: Any) -> int:
    """Return a whole number. Raises WrongValue."""
    if not isinstance(value, int):
        raise WrongValue(column, "is no whole number")
    return value


def binary(column: str, value: Any) -> bytes:
    """Return bytes. Raises WrongValue."""
    if not isinstance(value, bytes):
        raise WrongValue(column, "is no bytes")
    return value


def digest(column: str, value: Any) -> bytes:
    """Return a SHA-256. Raises WrongValue."""
    if len(binary(column, value)) != HASH_BYTES:
        raise WrongValue(column, f"has {len(value)} bytes instead of {HASH_BYTES}")
    return bytes(value)


def instant(column: str, value: Any) -> datetime:
    """Return a moment in UTC, from the text in which SQLite stores it. Raises WrongValue."""
    try:
        moment = datetime.fromisoformat(text(column, value))
    except ValueError:
        raise WrongValue(column, "is no date and time") from None
    if moment.tzinfo is not None or moment.isoformat(" ", "microseconds") != value:
        raise WrongValue(column, "is not spelled as the service writes times")
    return moment.replace(tzinfo=UTC)


def json_value(column: str, value: Any) -> Any:
    """Return what a JSON text contains. Raises WrongValue.

    Another spelling of the same value is wrong, too: nobody but the service writes these texts.
    SQLite stores a number in such a column as a number.
    """
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    try:
        content = _decode(text(column, value))
        is_spelled = json.dumps(content) == value
        if _SURROGATE in value:  # half of a pair is no Unicode text, and has no record
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if isinstance(error, WrongValue):
            raise
        raise WrongValue(column, "is no JSON") from None
    if not is_spelled:
        raise WrongValue(column, "is not spelled as the service writes JSON")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(constant)


_decode = json.JSONDecoder(parse_constant=_refuse).decode
_SURROGATE = "\\ud"


@cache
def optional(reader: Reader) -> Reader:
    """Return the reader that also accepts NULL."""
    return lambda column, value: None if value is None else reader(column, value)
