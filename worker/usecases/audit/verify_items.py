"""Hashes the items of a chunk as they are stored, as fast as Python can."""

import json
from collections.abc import Sequence
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any

from worker.core.tree.merkle import HASH_BYTES, RightEdge
from worker.db.tree.log_readers import Row
from worker.db.tree.stored_values import WrongValue, digest, json_value, number, text

_DUMP = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


class WrongItem(ValueError):
    """An item that is not as it was written: its number, and what is wrong with it."""

    def __init__(self, item: int | None, error: WrongValue) -> None:
        super().__init__(f"item {item}: {error}")
        self.item = item
        self.error = error


class Items:
    """The items of one chunk: the tree of their records, and what their details say.

    sizes is the sum of the sizes that issued items name.
    """

    __slots__ = ("edge", "issued", "sizes")

    def __init__(self, rows: Sequence[Row], first: int) -> None:
        """Read rows whose items are numbered from first on. Raises WrongItem."""
        hashes: list[bytes] = []
        append, hashed, quoted = hashes.append, sha256, encode_basestring
        self.issued = self.sizes = 0
        try:
            for expected, row in enumerate(rows, first):
                _, item, key, code, detail, signature = row
                if item != expected:
                    raise WrongItem(expected, WrongValue("item_number", "is missing"))
                detail_part = "" if detail is None else self._detail(detail, code)
                # Equal to records.item_record, which takes longer: see its test.
                if code is None:
                    if len(signature) != HASH_BYTES:
                        raise _wrong_item(row)
                    self.issued += 1
                    record = (
                        f'\0{{{detail_part}"digest":"{signature.hex()}","item":{item}'
                        f',"key":{quoted(key)}}}'
                    )
                elif signature is None:
                    record = (
                        f'\0{{"code":{quoted(code)},{detail_part}"item":{item}'
                        f',"key":{quoted(key)}}}'
                    )
                else:
                    raise _wrong_item(row)
                append(hashed(record.encode()).digest())
        except (TypeError, AttributeError, UnicodeEncodeError):
            raise _wrong_item(row) from None
        except WrongValue as error:
            raise WrongItem(item, error) from None
        self.edge = RightEdge.of(hashes)

    def _detail(self, detail: Any, code: str | None) -> str:
        value = json_value("detail", detail)
        if code is None and isinstance(value, dict) and isinstance(value.get("size"), int):
            self.sizes += value["size"]
        return f'"detail":{_DUMP(value)},'


def _wrong_item(row: Row) -> WrongItem:
    """Find out which value of an item is wrong."""
    _, item, key, code, _, signature = row
    try:
        number("item_number", item)
        text("object_key", key)
        if code is not None:
            text("code", code)
            if signature is not None:
                raise WrongValue("digest", "is set, though the item was refused")
        elif signature is None:
            raise WrongValue("digest", "is missing, though the item was issued")
        else:
            digest("digest", signature)
        raise WrongValue("object_key", "is no Unicode text")
    except WrongValue as error:
        return WrongItem(item if isinstance(item, int) else None, error)
