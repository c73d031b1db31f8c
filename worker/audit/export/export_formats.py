"""The formats of exports: CSV, JSON lines, Parquet and events of OCSF 1.6.0.

The text of what a chunk's items share is made once; a row then is one f-string. In OCSF, each item
is an event of the class API Activity (6003): events have no category of their own for signed links,
and this class has an actor, a call and its resources.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Literal

from valetkey.units import format_utc
from valetkey.wire.grant_ids import grant_id
from worker.audit.audit_rows import ChunkHead, ChunkItems, GrantRecord, ItemRow
from worker.audit.export.export_run import HashedStream, RowWriter, TextWriter
from worker.audit.grant_filters import ISSUED

EXPORT_COLUMNS = GrantRecord._fields


def to_records(block: list[ChunkItems]) -> Iterator[GrantRecord]:
    """Yield the records of a block."""
    for head, items in block:
        expires_at = head.expires_at
        for _, item_number, key, code in items:
            grant = grant_id(head.batch_id, item_number)
            end = None if code else expires_at
            yield GrantRecord(*head[:8], key, code or ISSUED, end, grant)


CSV_HEADING = ",".join(EXPORT_COLUMNS) + "\n"
_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
_QUOTED = (",", '"', "\r", "\n")
_SEPARATOR = "\0"
_UNUSUAL = (*_QUOTED, *(_SEPARATOR + prefix for prefix in _FORMULA_PREFIXES))
_SHARED_COLUMNS = EXPORT_COLUMNS[:8]  # the items of a chunk share their values
_CACHED_TEXTS = 10_000  # of tenants, requesters, reasons, codes: few are distinct


def format_csv(block: list[ChunkItems]) -> str:
    """Format a block as CSV, without a heading.

    A cell that a spreadsheet would run as a formula starts with an apostrophe.
    """
    lines: list[str] = []
    for head, items in block:
        shared = ",".join(map(_cell, _shared_texts(head)))
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
        values = zip(_SHARED_COLUMNS, map(_quote, _shared_texts(head)), strict=True)
        shared = "".join([f'"{name}": {value}, ' for name, value in values])
        grant = quote(f"{head.batch_id}.")[:-1]
        expires_at = format_utc(head.expires_at)
        issued = f', "decision": "{ISSUED}", "expires_at": "{expires_at}", "grant": {grant}'
        lines += [
            f'{{{shared}"key": {quote(key)}{issued}{number}"}}\n'
            if code is None
            else f'{{{shared}"key": {quote(key)}, "decision": {_quote(code)}, "expires_at": null,'
            f' "grant": {grant}{number}"}}\n'
            for _, number, key, code in items
        ]
    return "".join(lines)


def _shared_texts(head: ChunkHead) -> tuple[str | None, ...]:
    return (format_utc(head.time), *head[1:8])


@lru_cache(_CACHED_TEXTS)
def _quote(text: str | None) -> str:
    return "null" if text is None else quote(text)


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


OCSF_VERSION = "1.6.0"
CLASS_UID = 6003
CATEGORY_UID = 6
_CREATE = 1
_INFORMATIONAL = 1
_SUCCESS, _FAILURE = 1, 2


def format_ocsf(block: list[ChunkItems]) -> str:
    """Format a block as one OCSF event per line."""
    lines = []
    for head, items in block:
        shared = json.dumps(_shared_fields(head))[:-1]
        metadata = json.dumps(_metadata(head))[:-1]
        grant = quote(f"{head.batch_id}.")[:-1]
        bucket = quote(head.bucket)
        allowed = _outcome(_SUCCESS, "Success", ISSUED)
        unmapped = json.dumps(_unmapped(head, is_issued=True))
        refused_unmapped = json.dumps(_unmapped(head, is_issued=False))
        for _, number, key, code in items:
            outcome = allowed if code is None else _outcome(_FAILURE, "Failure", code)
            lines.append(
                f'{shared}, "metadata": {metadata}, "uid": {grant}{number}"}}, "resources": '
                f'[{{"type": "object", "name": {quote(key)}, "namespace": {bucket}}}], '
                f'{outcome}, "unmapped": {unmapped if code is None else refused_unmapped}}}\n'
            )
    return "".join(lines)


def _shared_fields(head: ChunkHead) -> dict[str, Any]:
    user: dict[str, Any] = {"name": head.requested_by, "org": {"uid": head.tenant}}
    if head.signed_by is not None:
        user["credential_uid"] = head.signed_by
    return {
        "category_uid": CATEGORY_UID,
        "category_name": "Application Activity",
        "class_uid": CLASS_UID,
        "class_name": "API Activity",
        "activity_id": _CREATE,
        "activity_name": "Create",
        "type_uid": CLASS_UID * 100 + _CREATE,
        "type_name": "API Activity: Create",
        "severity_id": _INFORMATIONAL,
        "severity": "Informational",
        "time": int(head.time.timestamp() * 1_000),
        "actor": {"user": user},
        "api": {"operation": f"grant.{head.kind}", "service": {"name": "valetkey"}},
        # The queue names no address of the producer.
        "src_endpoint": {"name": head.requested_by},
    }


def _metadata(head: ChunkHead) -> dict[str, Any]:
    return {
        "version": OCSF_VERSION,
        "product": {"name": "valetkey", "vendor_name": "valetkey"},
        "tenant_uid": head.tenant,
        "correlation_uid": head.batch_id,
    }


def _outcome(status_id: int, status: str, code: str) -> str:
    return f'"status_id": {status_id}, "status": "{status}", "status_code": {quote(code)}'


def _unmapped(head: ChunkHead, *, is_issued: bool) -> dict[str, Any]:
    values = {"kind": head.kind, "recipient": head.recipient, "reason": head.reason}
    present: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if is_issued:
        present["expires_at"] = int(head.expires_at.timestamp() * 1_000)
    return present


FormatName = Literal["csv", "jsonl", "parquet", "ocsf"]


_TEXT_FORMATS: dict[str, Callable[[list[ChunkItems]], str]] = {
    "csv": format_csv,
    "jsonl": format_json_lines,
    "ocsf": format_ocsf,
}


def is_text(name: FormatName) -> bool:
    """Tell whether a format is text, which can be continued after any row."""
    return name in _TEXT_FORMATS


def make_writer(name: FormatName, stream: HashedStream) -> RowWriter:
    """Return the writer of a format, and write its heading if the stream is empty."""
    if name == "parquet":
        # Imported for this format alone: it takes longer than everything else that a command needs.
        from worker.audit.export.parquet_format import ParquetRowWriter  # noqa: PLC0415

        return ParquetRowWriter(stream)
    return TextWriter(stream, _TEXT_FORMATS[name], CSV_HEADING if name == "csv" else "")
