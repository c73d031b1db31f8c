"""The records of each kind, and the hashes of their leaves, are those of every earlier release."""

from datetime import UTC, datetime
from typing import Any

import pytest

from worker.ledger.merkle import (
    encode_record,
    entry_hash,
    item_record,
    items_edge,
)
from worker.rules.decisions import GrantRow

NOW = datetime(2026, 11, 27, 7, 8, 9, 12, tzinfo=UTC)
BATCH_ID = "01932000-0000-7000-8000-000000000001"
BATCH: dict[str, Any] = {
    "batch_id": BATCH_ID,
    "tenant": "acme",
    "bucket": "demo",
    "kind": "put",
    "requested_by": 'Zoë "Z" \\ \u2028 \x7f \x01',
    "reason": "case 4711",
    "recipient": None,
    "terms": {"kind": "put", "expires_in": 300, "ü": [1.5, None, True]},
    "total": 4,
    "chunk_size": 3,
    "callback": "hook",
    "notify": ["stored", "deleted"],
    "reissue_of": f"{BATCH_ID}.7",
    "fingerprint": bytes(range(32)),
    "refusal": {"code": "quota_exceeded", "message": "No."},
    "decided_at": NOW,
}
CHUNK: dict[str, Any] = {
    "batch_number": 7,
    "chunk_number": 1,
    "fingerprint": bytes(range(32, 64)),
    "issued": 2,
    "refused": 1,
    "issued_at": NOW,
    "expires_in": 300,
    "limited_by": "policy",
    "access_key": "AKIDEXAMPLE",
    "refusal": None,
    "signing_key": "main",
}
ITEMS = [
    GrantRow(3, "acme/a.png", None, None, bytes(range(64, 96))),
    GrantRow(4, 'acme/ü "q"\n.png', None, {"size": 12, "filename": "ä\u2028"}, bytes(32)),
    GrantRow(5, "other/b.png", "prefix_not_allowed", {"prefix": ["acme/"]}, None),
    GrantRow(6, "other/c.png", "key_invalid", None, None),
]
REISSUE: dict[str, Any] = {
    "batch_number": 7,
    "chunk_number": 1,
    "fingerprint": bytes(range(32)),
    "access_key": "AKIDROTATED",
    "reissued_at": NOW,
    "digests": bytes(range(64)),
}
CANCELLATION: dict[str, Any] = {
    "tenant": "acme",
    "batch_id": BATCH_ID,
    "signing_key": None,
    "requested_by": "ann",
    "reason": "a mistake",
    "cancelled_at": NOW,
}
REVOCATION: dict[str, Any] = {
    "tenant": "acme",
    "revocation_id": "01932000-0000-4000-8000-000000000002",
    "target_kind": "key",
    "target": "acme/a.png",
    "bucket": "demo",
    "storage": "valetkey-demo",
    "grants": 3,
    "revoked_by": "alice",
    "reason": None,
    "revoked_at": NOW,
    "lapses_at": NOW,
}
USE: dict[str, Any] = {
    "fingerprint": bytes(range(32)),
    "tenant": "acme",
    "batch_number": 7,
    "item_number": 3,
    "event": "stored",
    "source": "event",
    "verdict": "as_granted",
    "problem": None,
    "occurred_at": NOW,
    "recorded_at": NOW,
    "size": 12,
    "etag": '"e"',
    "version": None,
    "checksum": None,
    "content_type": "image/png",
    "remote_address": "192.0.2.1",
    "user_agent": None,
    "charged_bytes": None,
    "group_id": "01932000-0000-4000-8000-000000000003",
}
SETTLEMENT: dict[str, Any] = {
    "batch_number": 7,
    "chunk_number": 1,
    "tenant": "acme",
    "unused": "0-5,9",
    "used_bytes": 12,
    "returned_bytes": 500_000,
    "settled_at": NOW,
}
CHANGE: dict[str, Any] = {
    "change_number": 3,
    "changed_at": NOW,
    "changed_by": "bob",
    "command": "apply",
    "path": "tenants.acme.allow.demo.prefixes",
    "before": None,
    "after": ["a/", "ü/"],
}
PRUNE: dict[str, Any] = {
    "tenant": "acme",
    "before": "2026-01",
    "pruned_by": "ops",
    "pruned_at": NOW,
    "chunks": 2,
    "items": 9,
    "use_groups": 1,
    "edges": 2,
}
OWN_RECORDS = [
    encode_record("chunk", CHUNK, tenant="acme", batch_id=BATCH_ID),
    encode_record("batch", BATCH),
]
"""The records that a leaf covers after those of the items: that of the batch if it opened it."""


@pytest.mark.parametrize(
    ("record", "leaf_hash"),
    [
        (
            encode_record("reissue", REISSUE, tenant="acme", batch_id=BATCH_ID),
            "44c01dbeaaf406b7b52b5906bc372bb150c6c1f7844df837708692fa3c18c12d",
        ),
        (
            encode_record("cancellation", CANCELLATION),
            "5238981dec02fad5ff8c5a0b2142f0ca412585daf9fc72a0fa2f12e9f5032f75",
        ),
        (
            encode_record("revocation", REVOCATION),
            "cafc4e981e12744f59a9b6157aa3a9a5e364413c5e2f3fcd94b6d4b26f780766",
        ),
        (
            encode_record("use", USE, batch_id=BATCH_ID),
            "7a93a166c70476b996d19d9fb7f9de848155f68133d261d64a8b3bc00ca635c1",
        ),
        (
            encode_record("settlement", SETTLEMENT, batch_id=BATCH_ID),
            "67a8a639162e8b9542662dc3c625f86b54a29d4d8e6910311add442a377c0fa6",
        ),
        (
            encode_record("config", CHANGE),
            "98f052a3f22b23b93849f94712826e467fe5626c28f88a2025ec36cdd81656e3",
        ),
        (
            encode_record("prune", PRUNE),
            "6e30c8b087a7c065f8175e9fd5bc97360ea56a3115f8ebd1eaaa0c13cfc303f0",
        ),
    ],
)
def test_the_leaf_of_one_row_has_the_hash_that_it_always_had(record: bytes, leaf_hash: str) -> None:
    assert entry_hash([record]).hex() == leaf_hash


@pytest.mark.parametrize(
    ("items", "records", "leaf_hash"),
    [
        (ITEMS, 2, "f53bb23b555fcc837300d5b6bcfa965461d04c7bc3c56ee996703692b94559db"),
        (ITEMS, 1, "71707f02a74c81926ae3eacce95dcd3e850b0dd1e17725f60afd56d55c29343c"),
        ([], 1, "5a4ea2f99e0c4f16ee030dbd3f8859783b7044dd0d1aed50ab4602156f13d77e"),
    ],
)
def test_the_leaf_of_a_chunk_has_the_hash_that_it_always_had(
    items: list[GrantRow], records: int, leaf_hash: str
) -> None:
    assert entry_hash(OWN_RECORDS[:records], items_edge(items)).hex() == leaf_hash


def test_the_records_of_items_have_the_bytes_that_they_always_had() -> None:
    assert b"\n".join(map(item_record, ITEMS)).decode() == (
        '{"digest":"404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f","item":3,'
        '"key":"acme/a.png"}\n'
        '{"detail":{"filename":"ä\u2028","size":12},"digest":"' + "0" * 64 + '","item":4,'
        '"key":"acme/ü \\"q\\"\\n.png"}\n'
        '{"code":"prefix_not_allowed","detail":{"prefix":["acme/"]},"item":5,'
        '"key":"other/b.png"}\n'
        '{"code":"key_invalid","item":6,"key":"other/c.png"}'
    )


def test_the_record_of_a_batch_has_the_bytes_that_it_always_had() -> None:
    assert encode_record("batch", BATCH).decode() == (
        '{"batch_id":"01932000-0000-7000-8000-000000000001","bucket":"demo","callback":"hook",'
        '"chunk_size":3,"decided_at":"2026-11-27T07:08:09.000012Z","fingerprint":'
        '"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","kind":"put",'
        '"notify":["stored","deleted"],"reason":"case 4711","refusal":{"code":"quota_exceeded",'
        '"message":"No."},"reissue_of":"01932000-0000-7000-8000-000000000001.7","requested_by":'
        '"Zoë \\"Z\\" \\\\ \u2028 \x7f \\u0001","tenant":"acme","terms":{"expires_in":300,'
        '"kind":"put","ü":[1.5,null,true]},"total":4,"type":"batch"}'
    )
