"""Parameter types of the command line: sizes, durations, checksums, names and short texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from valetkey.units import describe_duration, describe_size, parse_duration, parse_size
from valetkey.wire.messages import BatchId, GrantId
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_OBJECT_BYTES, Checksum, Encryption, Name


def parse_checksum(text: str) -> Checksum:
    """Parse a checksum: its algorithm, a colon and its value in base64. Raises ValueError."""
    algorithm, _, value = text.partition(":")
    try:
        return Checksum.model_validate({"algorithm": algorithm, "value": value})
    except ValidationError:
        raise ValueError(
            "a checksum is sha256, crc32, crc32c or crc64nvme, then a colon and the value in base64"
        ) from None


class _ParsedType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A parameter type whose parser raises ValueError for an invalid value."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _wire_parser(wire_type: Any, expected: str) -> Callable[[str], str]:
    adapter: TypeAdapter[str] = TypeAdapter(wire_type)

    def parse(text: str) -> str:
        try:
            return adapter.validate_python(text)
        except ValidationError:
            raise ValueError(expected) from None

    return parse


parse_name = _wire_parser(
    Name, "a name has up to 63 characters of a-z, 0-9, - and _, and starts with a-z or 0-9"
)
"""Parses the name of a tenant, a bucket profile or a key. Raises ValueError."""

_parse_batch_id = _wire_parser(
    BatchId, "a batch id is a UUID of version 7: the part of a grant's id before the dot"
)
_parse_grant_id = _wire_parser(
    GrantId, "a grant's id is a UUID of version 7, a dot and the number of an item"
)


def _parse_grant_or_batch_id(text: str) -> str:
    return _parse_grant_id(text) if "." in text else _parse_batch_id(text)


def _parse_encryption(text: str) -> Encryption:
    if text == "AES256":
        return Encryption(algorithm="AES256")
    return Encryption(algorithm="aws:kms", key=_parse_text(text))


def _parse_text(text: str) -> str:
    if text == "":
        raise ValueError("must not be empty: leave the option out instead")
    return text


def _range(
    name: str,
    parse: Callable[[str], int],
    describe: Callable[[int], str],
    minimum: int,
    maximum: int | None = None,
) -> _ParsedType:
    limits = f"at least {describe(minimum)}"
    if maximum is not None:
        limits = f"from {describe(minimum)} to {describe(maximum)}"

    def parse_within(text: str) -> int:
        number = parse(text)
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError(f"must be {limits}, not {describe(number)}")
        return number

    return _ParsedType(name, parse_within)


_DURATION = ("duration", parse_duration, describe_duration)
_SIZE = ("size", parse_size, describe_size)

BATCH_ID = _ParsedType("batch", _parse_batch_id)
CHECKSUM = _ParsedType("checksum", parse_checksum)
ENCRYPTION = _ParsedType("encryption", _parse_encryption)
EXPIRY = _range(*_DURATION, 1, MAX_EXPIRES_IN)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
GRANT_ID = _ParsedType("grant", _parse_grant_id)
GRANT_OR_BATCH_ID = _ParsedType("grant or batch", _parse_grant_or_batch_id)
MAX_SIZE = _range(*_SIZE, 1, MAX_OBJECT_BYTES)
MIN_LEFT = _range(*_DURATION, 0, MAX_EXPIRES_IN)
NAME = _ParsedType("name", parse_name)
OBJECT_SIZE = _range(*_SIZE, 0, MAX_OBJECT_BYTES)
SIZE = _ParsedType("size", parse_size)
TEXT = _ParsedType("text", _parse_text)
TIMEOUT = _range(*_DURATION, 1)
