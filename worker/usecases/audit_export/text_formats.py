"""Formats exported rows as CSV or JSON lines.

The text of what a chunk's items share is made once. A row then is one f-string.
"""

import json
import re
from json.encoder import encode_basestring_ascii as quote_json
from typing import Any

from valetkey.units import format_utc
from worker.db.audit.filters import ISSUED
from worker.db.audit.stream import ChunkHead, ChunkItems
from worker.usecases.audit_export.records import COLUMNS

CSV_HEADING = ",".join(COLUMNS) + "\n"
_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
_needs_quotes = re.compile(r'[,"\r\n]').search
_is_plain = re.compile(r'[^,"\r\n=+\-@\t][^,"\r\n]*').fullmatch


def format_csv(block: list[ChunkItems]) -> str:
    """Format a block as CSV, without a heading.

    A cell that a spreadsheet would run as a formula starts with an apostrophe.
    """
    lines = []
    for head, items in block:
        shared = ",".join(map(_cell, _shared_values(head).values()))
        expires_at, batch_id = format_utc(head.expires_at), _cell(head.batch_id)
        for _, number, key, code in items:
            key_cell = key if _is_plain(key) else _cell(key)
            if code is None:
                lines.append(f"{shared},{key_cell},{ISSUED},{expires_at},{batch_id}.{number}\n")
            else:
                lines.append(f"{shared},{key_cell},{_cell(code)},,{batch_id}.{number}\n")
    return "".join(lines)


def format_json_lines(block: list[ChunkItems]) -> str:
    """Format a block as one JSON object per line, with values as stored."""
    lines = []
    for head, items in block:
        shared = f'{json.dumps(_shared_values(head))[:-1]}, "key": '
        issued = f'"{ISSUED}", "expires_at": "{format_utc(head.expires_at)}", "grant": '
        grant = quote_json(f"{head.batch_id}.")[:-1]
        for _, number, key, code in items:
            decision = issued
            if code is not None:
                decision = f'{quote_json(code)}, "expires_at": null, "grant": '
            lines.append(f'{shared}{quote_json(key)}, "decision": {decision}{grant}{number}"}}\n')
    return "".join(lines)


def _shared_values(head: ChunkHead) -> dict[str, Any]:
    """Return the values of the first columns, which the items of a chunk share."""
    return {
        "time": format_utc(head.time),
        "tenant": head.tenant,
        "requested_by": head.requested_by,
        "signed_by": head.signed_by,
        "recipient": head.recipient,
        "reason": head.reason,
        "bucket": head.bucket,
        "kind": head.kind,
    }


def _cell(text: str | None) -> str:
    if not text:
        return ""
    if text.startswith(_FORMULA_PREFIXES):
        text = f"'{text}"
    if _needs_quotes(text):
        quoted = text.replace('"', '""')
        return f'"{quoted}"'
    return text
