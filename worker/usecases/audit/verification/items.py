"""Hashes the items of a chunk as they are stored, all at once: as fast as Python can."""

import re
from collections.abc import Sequence
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any

from worker.core.tree.merkle import HASH_BYTES
from worker.db.tree.log_readers import Row
from worker.db.tree.stored_records import read_json
from worker.db.tree.stored_values import WrongValue, digest, json_value, number, text

_is_escaped = re.compile(r'[\x00-\x1f"\\]').search
_match_size = re.compile(r'\{"size": (0|[1-9][0-9]{0,17})\}').fullmatch


class WrongItem(ValueError):
    """An item that is not as it was written: its number, and what is wrong with it."""

    def __init__(self, item: int | None, error: WrongValue) -> None:
        super().__init__(f"item {item}: {error}")
        self.item = item
        self.error = error


class Items:
    """The items of one chunk: the hashes of their records, and what their details say.

    sizes is the sum of the sizes that issued items name.
    """

    __slots__ = ("hashes", "issued", "sizes")

    def __init__(self, rows: Sequence[Row], first: int) -> None:
        """Read rows whose items are numbered from first on. Raises WrongItem."""
        self.hashes: list[bytes] = []
        self.issued = self.sizes = 0
        if not rows:
            return
        try:
            is_usual = self._hash(rows, first)
        except (TypeError, AttributeError, ValueError):  # WrongValue, and text that is not Unicode
            is_usual = False
        if not is_usual:
            raise _find_wrong_item(rows, first)

    def _hash(self, rows: Sequence[Row], first: int) -> bool:
        """Hash all records. Returns false, or raises, if a row is not as the service writes it."""
        _, numbers, keys, codes, details, digests = zip(*rows, strict=True)
        self.issued = codes.count(None)
        refused = len(rows) - self.issued
        if numbers != tuple(range(first, first + len(rows))) or digests.count(None) != refused:
            return False
        issued = [each for each in digests if each is not None] if refused else digests
        if not {HASH_BYTES}.issuperset(map(len, issued)):
            return False
        # Few texts have characters to escape: one search is much faster than quoting each.
        if _is_escaped("".join(keys)):
            keys = tuple(encode_basestring(key)[1:-1] for key in keys)
        if refused:
            codes = tuple(code if code is None else encode_basestring(code) for code in codes)
        parts: Sequence[str] = ("",) * len(rows)
        if details.count(None) != len(rows):
            parts = [self._detail(*pair) for pair in zip(details, codes, strict=True)]
        # Equal to records.item_record, which takes longer: see its test. A digest of a refused item
        # is missing, or else that of an issued one is.
        self.hashes = [
            record.digest()
            for record in map(
                sha256,
                [
                    f'\0{{{part}"digest":"{signature.hex()}","item":{item},"key":"{key}"}}'.encode()
                    if code is None
                    else f'\0{{"code":{code},{part}"item":{item},"key":"{key}"}}'.encode()
                    for item, key, code, part, signature in zip(
                        numbers, keys, codes, parts, digests, strict=True
                    )
                ],
            )
        ]
        return True

    def _detail(self, detail: Any, code: str | None) -> str:
        if detail is None:
            return ""
        match = _match_size(detail) if isinstance(detail, str) else None
        size: Any
        if match is not None:  # the usual detail of an upload, four times as fast
            part, size = f'"detail":{{"size":{match[1]}}},', int(match[1])
        else:
            value, encoded = read_json(detail)
            part = f'"detail":{encoded},'
            size = value.get("size") if isinstance(value, dict) else None
        if code is None and isinstance(size, int):
            self.sizes += size
        return part


def _find_wrong_item(rows: Sequence[Row], first: int) -> WrongItem:
    """Find the first item that is not as the service writes it."""
    for expected, row in enumerate(rows, first):
        if row[1] != expected:
            return WrongItem(expected, WrongValue("item_number", "is missing"))
        try:
            wrong = _wrong_value(row)
        except WrongValue as error:
            wrong = error
        if wrong is not None:
            return WrongItem(expected, wrong)
    raise RuntimeError("the items cannot be hashed, and none of them is wrong")


def _wrong_value(row: Row) -> WrongValue | None:
    """Return which value contradicts another. Raises WrongValue for one that cannot be read."""
    _, item, key, code, detail, signature = row
    number("item_number", item)
    _unicode("object_key", key)
    if detail is not None:
        json_value("detail", detail)
    if code is not None:
        _unicode("code", code)
        if signature is not None:
            return WrongValue("digest", "is set, though the item was refused")
    elif signature is None:
        return WrongValue("digest", "is missing, though the item was issued")
    else:
        digest("digest", signature)
    return None


def _unicode(column: str, value: Any) -> None:
    try:
        text(column, value).encode()
    except UnicodeEncodeError:
        raise WrongValue(column, "is no Unicode text") from None
