"""The bytes that a decision records without a charge."""

from dataclasses import replace

import pytest

from tests.support.builders.messages import Clock, grant_message, tenant_config, upload_message
from valetkey.cli.descriptions import describe_cause
from valetkey.wire.messages import ChunkMessage
from worker.ledger.quota_usage import MAX_UNCHARGED_BYTES
from worker.rules.decisions import (
    ChunkDecision,
    GrantRow,
    ceiling_refusal,
    refuse_chunk,
    reissue_item_refusal,
    uncharged_bytes,
)
from worker.rules.quota_rules import Cost

NOW = Clock()()
KEYS = tuple(f"statements/2026/11/customer-{number:07}.pdf" for number in range(600))
REFUSAL = ceiling_refusal(MAX_UNCHARGED_BYTES, NOW)


def message(keys: tuple[str, ...] = KEYS) -> ChunkMessage:
    return ChunkMessage.model_validate(grant_message(keys))


def refused_one_by_one(request: ChunkMessage) -> ChunkDecision:
    """Return the decision on items that have no allowed prefix."""
    policy = tenant_config().tenants["acme"].policies["demo"]
    rows = []
    for number, item in enumerate(request.items):
        refusal = reissue_item_refusal(item, request.grant, policy, f"items[{number}]")
        assert refusal is not None
        rows.append(GrantRow(number, item.key, refusal.code, refusal.model_dump(mode="json")))
    return replace(refuse_chunk(request, REFUSAL, NOW), rows=rows, refusal=None)


def test_a_nightly_job_with_a_wrong_prefix_is_recorded_whole() -> None:
    size = uncharged_bytes(message(), refused_one_by_one(message()), 0)
    assert MAX_UNCHARGED_BYTES // size * 600 > 100_000


def test_a_batch_that_is_refused_as_a_whole_is_recorded_up_to_300_000_items() -> None:
    size = uncharged_bytes(message(), refuse_chunk(message(), REFUSAL, NOW), 0)
    assert MAX_UNCHARGED_BYTES // size * 600 > 300_000


@pytest.mark.parametrize(("paid", "is_free"), [(600, True), (300, True), (299, False), (0, False)])
def test_each_charged_item_pays_for_the_record_of_another_one(paid: int, *, is_free: bool) -> None:
    decision = replace(refuse_chunk(message(), REFUSAL, NOW), cost=Cost(grants=paid))
    assert (uncharged_bytes(message(), decision, paid) == 0) == is_free


def test_large_terms_and_keys_count_with_their_bytes() -> None:
    terms = upload_message(metadata={"name": "x" * 2_000, "other": "x" * 2_000})
    requests = ChunkMessage.model_validate(terms), message(("é" * 1_000,))
    large, long = (uncharged_bytes(each, refuse_chunk(each, REFUSAL, NOW), 0) for each in requests)
    assert 4_000 < large < 7_000
    assert 2_000 < long < 4_500


def test_texts_of_items_count_with_their_bytes_once_for_the_row_and_once_for_the_index() -> None:
    request = grant_message(["acme/a"])
    sizes = []
    for text in ("", "é" * 100):
        request["items"] = [{"key": "acme/a"} | ({"ref": text, "reason": text} if text else {})]
        each = ChunkMessage.model_validate(request)
        sizes.append(uncharged_bytes(each, refuse_chunk(each, REFUSAL, NOW), 0))
    assert sizes[1] - sizes[0] >= 2 * 2 * 200


def test_the_refusal_names_the_limit_and_the_end_of_the_day() -> None:
    assert REFUSAL.quota is not None
    assert REFUSAL.quota.resets_at is not None
    assert (REFUSAL.limit, REFUSAL.quota.left) == (MAX_UNCHARGED_BYTES, 0)
    assert "64 MiB" in describe_cause(REFUSAL)
    assert REFUSAL.quota.resets_at.isoformat() == "2026-11-25T00:00:00+00:00"
