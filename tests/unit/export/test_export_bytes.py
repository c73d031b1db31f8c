"""The bytes of an export are pinned: an auditor compares digests."""

import io
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from worker.audit.audit_rows import SHARED_COLUMNS, ChunkHead, ChunkItems
from worker.export.export_run import FormatName, HashedStream, open_writer

MORNING = datetime(2026, 11, 27, 8, 0, 0, 123, tzinfo=UTC)
KEYS = (
    *("a/b.pdf", "=1+1", "+1", "-1", "@x", "\tx", "\rx", 'say "hi"', "a,b", "a\nb", "a\rb", ""),
    *("ü/日本.png", "back\\slash", "nul\0=x", "a=b", "a\0-", "\x7f\x01", "'quoted'", "😀"),
)
CODES = (None, None, None, "key_invalid", "=code")
PLAIN = (None, "billing", None, None)
HOSTILE = ("acme/ü", "=cmd,1", 'Ann "A" Ü', "a\nreason")
DIGESTS = {
    "csv": "27b0b73fc340c6a195cb06b34f4c5abe258fae8b576ba5eee19efed75ac57447",
    "jsonl": "443896f6f1d10cfed7e305cafad7ac0fc153577ca6bdb464b58a6c886d047561",
    "ocsf": "7fb8bc0aba17d4a02ea81eb8d1f7970759fb08f66cd8cebe2727c4034b946fd7",
}


def chunk(number: int, keys: tuple[str, ...], *, is_plain: bool) -> ChunkItems:
    key, requester, recipient, reason = PLAIN if is_plain else HOSTILE
    thumbprint, ref = (None, None) if is_plain else ("-humbprint", "=ref")
    names = "acme", requester, key, thumbprint, recipient, reason, ref, "demo"
    shared = (MORNING + timedelta(seconds=number), *names, "download")
    batch_id = f"0199a000-0000-7000-8000-{number:012d}"
    values = dict(zip(SHARED_COLUMNS, shared, strict=True))
    head = ChunkHead(values, number, 0, len(keys), 0, 3_600, batch_id, 600)
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
