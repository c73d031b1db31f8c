"""The bytes of an export are pinned: an auditor compares digests."""

import io
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest

from worker.audit.audit_rows import ChunkHead, ChunkItems
from worker.audit.export.export_run import FormatName, HashedStream, open_writer

MORNING = datetime(2026, 11, 27, 8, 0, 0, 123, tzinfo=UTC)
KEYS = (
    *("a/b.pdf", "=1+1", "+1", "-1", "@x", "\tx", "\rx", 'say "hi"', "a,b", "a\nb", "a\rb", ""),
    *("ü/日本.png", "back\\slash", "nul\0=x", "a=b", "a\0-", "\x7f\x01", "'quoted'", "😀"),
)
CODES = (None, None, None, "key_invalid", "=code")
PLAIN = (None, "billing", None, None)
HOSTILE = ("acme/ü", "=cmd,1", 'Ann "A" Ü', "a\nreason")
DIGESTS = {
    "csv": "2abde077bde81b7479347437015ca3b6b0871429fcf685e32874c0ec630b66e3",
    "jsonl": "5cc1da736803d5e0bf470fb34ddc0e62c3c8cd4c979b50886ccd13f910c7cc1d",
    "ocsf": "8f93152a2ae13176849d8a5bf697fbd1b1d0fc9038b4ce024e30d8af2773ab1f",
}


def chunk(number: int, keys: tuple[str, ...], *, is_plain: bool) -> ChunkItems:
    key, requester, recipient, reason = PLAIN if is_plain else HOSTILE
    fields: list[Any] = [MORNING + timedelta(seconds=number), "acme", requester, key, recipient]
    fields += [reason, "demo", "download", number, 0, len(keys), 0, 3_600]
    fields += [f"0199a000-0000-7000-8000-{number:012d}", 600]
    head = ChunkHead(*fields)
    items = [(number, n, key, CODES[n % len(CODES)]) for n, key in enumerate(keys)]
    return ChunkItems(head, items)


@pytest.mark.parametrize("name", ["csv", "jsonl", "ocsf"])
def test_the_bytes_of_an_export_do_not_change(name: FormatName) -> None:
    buffer = io.BytesIO()
    chunks = [
        chunk(1, KEYS, is_plain=True),
        chunk(2, KEYS, is_plain=False),
        chunk(3, ("x/1", "x/2"), is_plain=True),
        chunk(4, (), is_plain=True),
        *(chunk(5 + n, (key,), is_plain=n % 2 == 0) for n, key in enumerate(KEYS)),
    ]
    with open_writer(name, HashedStream(buffer)) as write:
        write(chunks[:2])
        write(chunks[2:])
    assert sha256(buffer.getvalue()).hexdigest() == DIGESTS[name]
