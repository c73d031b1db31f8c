"""Formats exported rows as CSV or JSON lines.

The text of what a chunk's items share is made once. A row then is one f-string.
"""

from collections.abc import Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii

from valetkey.units import format_utc
from worker.db.audit.filters import ISSUED
from worker.db.audit.stream import ChunkHead, ChunkItems, ItemRow
from worker.usecases.audit_export.records import COLUMNS

CSV_HEADING = ",".join(COLUMNS) + "\n"
_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
_QUOTED = (",", '"', "\r", "\n")
_SEPARATOR = "\0"
_UNUSUAL = (*_QUOTED, *(_SEPARATOR + prefix for prefix in _FORMULA_PREFIXES))
_SHARED_COLUMNS = COLUMNS[:8]  # the items of a chunk share their values
_CACHED_TEXTS = 10_000  # of tenants, requesters, reasons, codes: few are distinct


def format_csv(block: list[ChunkItems]) -> str:
    """Format a block as CSV, without a heading.

    A cell that a spreadsheet would run as a formula starts with an apostrophe.
    """
    lines: list[str] = []
    for head, items in block:
        shared = ",".join(map(_cell, _shared_values(head)))
        expires_at, batch_id = format_utc(head.expires_at), _cell(head.batch_id)
        issued = f",{ISSUED},{expires_at},{batch_id}."
        lines += [
            f"{shared},{key}{issued}{number}\n"
            if code is None
            else f"{shared},{key},{_cell(code)},,{batch_id}.{number}\n"
            for (_, number, _, code), key in zip(items, _key_cells(items), strict=True)
        ]
    return "".join(lines)


def _key_cells(items: Sequence[ItemRow]) -> list[str]:
    """Return the cells of object keys. Nearly all keys are cells as they are."""
    keys = [key for _, _, key, _ in items]
    text = _SEPARATOR + _SEPARATOR.join(keys)  # searching each key takes five times as long
    if any(mark in text for mark in _UNUSUAL):
        return [_format_cell(key) for key in keys]
    return keys


def format_json_lines(block: list[ChunkItems]) -> str:
    """Format a block as one JSON object per line, with values as stored."""
    lines: list[str] = []
    for head, items in block:
        values = zip(_SHARED_COLUMNS, map(_quote, _shared_values(head)), strict=True)
        shared = "".join([f'"{name}": {value}, ' for name, value in values])
        grant = encode_basestring_ascii(f"{head.batch_id}.")[:-1]
        expires_at = format_utc(head.expires_at)
        issued = f', "decision": "{ISSUED}", "expires_at": "{expires_at}", "grant": {grant}'
        quote = encode_basestring_ascii
        lines += [
            f'{{{shared}"key": {quote(key)}{issued}{number}"}}\n'
            if code is None
            else f'{{{shared}"key": {quote(key)}, "decision": {_quote(code)}, "expires_at": null,'
            f' "grant": {grant}{number}"}}\n'
            for _, number, key, code in items
        ]
    return "".join(lines)


def _shared_values(head: ChunkHead) -> tuple[str | None, ...]:
    return (
        *(format_utc(head.time), head.tenant, head.requested_by, head.signed_by, head.recipient),
        *(head.reason, head.bucket, head.kind),
    )


@lru_cache(_CACHED_TEXTS)
def _quote(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


def _format_cell(text: str | None) -> str:
    if not text:
        return ""
    if text.startswith(_FORMULA_PREFIXES):
        text = f"'{text}"
    if any(mark in text for mark in _QUOTED):
        quoted = text.replace('"', '""')
        return f'"{quoted}"'
    return text


_cell = lru_cache(_CACHED_TEXTS)(_format_cell)
