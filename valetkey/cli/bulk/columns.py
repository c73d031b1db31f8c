"""The columns of each grant kind, and the parser that turns a row's values into an item."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from valetkey.cli.bulk.input_rows import Columns, Row, is_encodable
from valetkey.cli.parameter_types import parse_checksum
from valetkey.cli.row_errors import RowRefusal
from valetkey.units import describe_duration, describe_size, parse_duration, parse_size
from valetkey.wire.messages import ITEM_TEXTS
from valetkey.wire.refusals import Code
from valetkey.wire.requests import option_names
from valetkey.wire.terms import (
    MAX_EXPIRES_IN,
    MAX_OBJECT_BYTES,
    MAX_TEXT,
    Checksum,
    Kind,
    Text,
)

# The maximum of an object key in UTF-8 (AWS: object-keys.html); no other value is longer.
_MAX_TEXT_BYTES = 1_024
_STORAGE_COLUMNS = ("key", "size", "checksum", "expires_in", *ITEM_TEXTS)
_COLUMNS: dict[Kind, Sequence[str]] = {
    "download": ("key", "filename", "version_id", "expires_in", *ITEM_TEXTS),
    "upload": _STORAGE_COLUMNS,
    "put": _STORAGE_COLUMNS,
}
# Two people may get the same object, each by a link of their own; it is stored only once.
_IDENTITIES: dict[Kind, Sequence[str]] = {"download": ("key", "version_id", "recipient")}
_REQUIRED_COLUMNS: dict[Kind, Sequence[str]] = {"put": ("key", "size")}


class RowRequest(NamedTuple):
    """A row's item as JSON values, and the row's own `expires_in` in seconds, if it has one."""

    row_number: int
    item: dict[str, Any]
    expires_in: int | None = None


class _InvalidValue(ValueError):
    """A value that its column cannot have."""

    def __init__(self, cause: str, code: Code = Code.MALFORMED, limit: int | None = None) -> None:
        super().__init__(cause)
        self.code = code
        self.limit = limit


def columns_for(kind: Kind, ignored: Sequence[str] = (), copied: Sequence[str] = ()) -> Columns:
    """Return the columns of a download, an upload or a put."""
    required, options = _REQUIRED_COLUMNS.get(kind, ("key",)), frozenset(option_names(kind))
    identity = _IDENTITIES.get(kind, ("key",))
    return Columns(_COLUMNS[kind], required, ignored, copied, options, identity)


def parse_row(row: Row, required: Sequence[str]) -> RowRequest | RowRefusal:
    """Return the item that a row requests, or the refusal of its first invalid value."""
    item, name = {}, ""
    try:
        for name in required:
            _require_value(row, name)
        for name, value in row.values.items():
            item[name] = _PARSERS[name](value)
        for name in row.copied:
            _require_utf8(row.copied[name])
    except _InvalidValue as error:
        text, (key, ref) = f"its {name} {error}", map(row.values.get, ("key", "ref"))
        return RowRefusal.create(row.number, error.code, text, name, error.limit, key, ref)
    expires_in = item.pop("expires_in", None)
    return RowRequest(row.number, item, expires_in)


def item_identity(item: dict[str, Any], names: Sequence[str]) -> bytes:
    """Return bytes that are equal for two items with the same values of these columns."""
    return "\0".join(item.get(name, "") for name in names).encode()


def describe_repetition(first_row: int, identity: Sequence[str]) -> str:
    """Describe a row that has the same identity as an earlier one."""
    once = "once for each recipient" if "recipient" in identity else "once"
    return f"it repeats the object of line {first_row}: name each object {once}"


def _require_value(row: Row, name: str) -> None:
    if row.values.get(name, "") == "":
        raise _InvalidValue("is missing", Code.KEY_EMPTY if name == "key" else Code.SIZE_REQUIRED)


def _require_utf8(value: Any) -> None:
    if not is_encodable(value):
        raise _InvalidValue("is not valid UTF-8")


def _text_parser(code: Code) -> Callable[[Any], str]:
    def parse_text(value: Any) -> str:
        if not isinstance(value, str):
            raise _InvalidValue("is not a string")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise _InvalidValue("is not valid UTF-8") from None
        if size > _MAX_TEXT_BYTES:
            raise _InvalidValue("is longer than 1,024 bytes", code, _MAX_TEXT_BYTES)
        return value

    return parse_text


def _number_parser(
    parse: Callable[[str], int],
    code: Code,
    minimum: int,
    maximum: int,
    describe: Callable[[int], str],
) -> Callable[[Any], int]:
    def parse_number(value: Any) -> int:
        try:
            number = parse(value) if isinstance(value, str) else value
        except ValueError as error:
            raise _InvalidValue(f"is invalid: {error}", code) from None
        if not isinstance(number, int) or isinstance(number, bool):
            raise _InvalidValue("is not a whole number", code)
        if not minimum <= number <= maximum:
            text = f"must be from {describe(minimum)} to {describe(maximum)}"
            raise _InvalidValue(text, code, maximum)
        return number

    return parse_number


def _parse_checksum(value: Any) -> dict[str, Any]:
    try:
        is_text = isinstance(value, str)
        checksum = parse_checksum(value) if is_text else Checksum.model_validate(value)
    except ValueError:
        text = (
            "must be sha256, crc32, crc32c or crc64nvme, a colon and the value in base64, "
            "as in sha256:47DE…"
        )
        raise _InvalidValue(text, Code.CHECKSUM_INVALID) from None
    if len(checksum.value) > _MAX_TEXT_BYTES:
        raise _InvalidValue("is longer than any checksum", Code.CHECKSUM_INVALID)
    return checksum.model_dump()


def _parse_annotation(value: Any) -> str:
    try:
        text = str(value) if type(value) is int else value  # JSON often has numbers as references
        return _ANNOTATION.validate_python(text, strict=True)
    except ValidationError:
        text = f"must be a text of 1 to {MAX_TEXT} characters without control characters"
        raise _InvalidValue(text, limit=MAX_TEXT) from None


_ANNOTATION: TypeAdapter[str] = TypeAdapter(Text)
_PARSERS: dict[str, Callable[[Any], Any]] = {
    "key": _text_parser(Code.KEY_TOO_LONG),
    "filename": _text_parser(Code.FILENAME_INVALID),
    "version_id": _text_parser(Code.VERSION_INVALID),
    "size": _number_parser(parse_size, Code.SIZE_INVALID, 0, MAX_OBJECT_BYTES, describe_size),
    "checksum": _parse_checksum,
    "expires_in": _number_parser(
        parse_duration, Code.EXPIRY_INVALID, 1, MAX_EXPIRES_IN, describe_duration
    ),
    **dict.fromkeys(ITEM_TEXTS, _parse_annotation),
}
