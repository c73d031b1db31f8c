"""From what a row says to what is asked for it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from valetkey.cli.bulk.row_errors import RowRefusal
from valetkey.cli.bulk.rows import Columns, Row
from valetkey.units import parse_checksum, parse_duration, parse_size
from valetkey.wire.refusals import Code
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_OBJECT_BYTES, Checksum, Kind

_LONGEST = 1_024  # bytes of UTF-8: of a key, AWS: object-keys.html; nothing else is longer
_STORING = ("key", "size", "checksum", "expires_in")
_KNOWN: dict[Kind, Sequence[str]] = {
    "download": ("key", "filename", "version_id", "expires_in"),
    "upload": _STORING,
    "put": _STORING,
}
_NEEDED: dict[Kind, Sequence[str]] = {"put": ("key", "size")}


class RowRequest(NamedTuple):
    """A row's item as JSON values, and its own life in seconds, if it has one."""

    number: int
    item: dict[str, Any]
    expires_in: int | None = None


class _Wrong(ValueError):
    """A value that its column cannot have."""

    def __init__(self, why: str, code: Code = Code.MALFORMED, limit: int | None = None) -> None:
        super().__init__(why)
        self.code = code
        self.limit = limit


def columns_for(kind: Kind, ignored: Sequence[str] = ()) -> Columns:
    """The columns of a download, an upload or a put."""
    return Columns(_KNOWN[kind], _NEEDED.get(kind, ("key",)), ignored)


def parse_row(row: Row, needed: Sequence[str]) -> RowRequest | RowRefusal:
    """What a row asks for."""
    item, name = {}, ""
    try:
        for name in needed:
            _require(row, name)
        for name, value in row.said.items():
            item[name] = _READ[name](value)
    except _Wrong as wrong:
        key = row.said.get("key")
        return RowRefusal.of(row.number, wrong.code, f"its {name} {wrong}", name, wrong.limit, key)
    life = item.pop("expires_in", None)
    return RowRequest(row.number, item, life)


def _require(row: Row, name: str) -> None:
    if row.said.get(name, "") == "":
        raise _Wrong("is not there", Code.KEY_EMPTY if name == "key" else Code.SIZE_REQUIRED)


def _text(code: Code) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise _Wrong("is not text")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise _Wrong("is not UTF-8") from None
        if size > _LONGEST:
            raise _Wrong("is longer than 1,024 bytes", code, _LONGEST)
        return value

    return read


def _number(parse: Callable[[str], int], least: int, most: int, code: Code) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        try:
            number = parse(value) if isinstance(value, str) else value
        except ValueError as error:
            raise _Wrong(f"is wrong: {error}", code) from None
        if not isinstance(number, int) or isinstance(number, bool):
            raise _Wrong("is no whole number", code)
        if not least <= number <= most:
            raise _Wrong(f"is not from {least} to {most:,}", code, most)
        return number

    return read


def _checksum(value: Any) -> dict[str, Any]:
    try:
        found = parse_checksum(value) if isinstance(value, str) else Checksum.model_validate(value)
    except ValueError:
        text = "is not an algorithm, a colon and base64, as in sha256:47DE…"
        raise _Wrong(text, Code.CHECKSUM_INVALID) from None
    if len(found.value) > _LONGEST:
        raise _Wrong("is longer than any", Code.CHECKSUM_INVALID)
    return found.model_dump()


_READ: dict[str, Callable[[Any], Any]] = {
    "key": _text(Code.KEY_TOO_LONG),
    "filename": _text(Code.FILENAME_INVALID),
    "version_id": _text(Code.VERSION_INVALID),
    "size": _number(parse_size, 0, MAX_OBJECT_BYTES, Code.SIZE_INVALID),
    "checksum": _checksum,
    "expires_in": _number(parse_duration, 1, MAX_EXPIRES_IN, Code.EXPIRY_INVALID),
}


def object_identity(item: dict[str, Any]) -> bytes:
    """What two rows have alike that mean the same object."""
    return f"{item['key']}\0{item.get('version_id', '')}".encode()
