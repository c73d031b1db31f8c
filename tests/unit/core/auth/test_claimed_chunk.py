"""The parts of a rejected message that are counted and sent back."""

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.messages import MAX_BATCH_ITEMS
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Outcome
from worker.core.authentication import ClaimedChunk, message_digest, parse_claimed_chunk

BATCH = "019ab1f0-5c00-7000-8000-000000000001"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def nested_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_the_digest_of_a_token_is_that_of_its_text() -> None:
    assert message_digest("a.b.c") == sha256(b"a.b.c").digest()


def test_equal_messages_have_equal_digests_in_any_order_of_members() -> None:
    assert message_digest({"v": 1, "tenant": "acme"}) == message_digest({"tenant": "acme", "v": 1})
    assert message_digest({"v": 1}) != message_digest({"v": 2})


def test_values_that_are_not_json_have_a_digest() -> None:
    assert message_digest({"items": [b"x"]}) == sha256(b'{"items": ["b\'x\'"]}').digest()


def test_messages_that_are_nested_too_deeply_have_the_same_digest() -> None:
    assert message_digest(nested_list(100_000)) == message_digest(nested_list(200_000))


@given(JSON_VALUES)
def test_every_message_has_a_digest(raw: Any) -> None:
    assert len(message_digest(raw)) == 32


@pytest.mark.parametrize("content", [None, 7, "a.b.c", [], ["batch"], {}, {"chunk": None}])
def test_a_message_without_a_batch_claims_none(content: Any) -> None:
    assert parse_claimed_chunk(content) == ClaimedChunk("", 0)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (7, ""),
        ([BATCH], ""),
        ("x" * 1_000_000, "x" * 36),
        ("a\0b", "a\\0b"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_a_batch_id_is_cut_and_made_printable(batch: Any, expected: str) -> None:
    assert parse_claimed_chunk({"batch": batch, "chunk": 1}) == ClaimedChunk(expected, 1)


@pytest.mark.parametrize("chunk", [-1, MAX_BATCH_ITEMS, 2**80, True, 1.0, "1", None])
def test_an_invalid_chunk_number_is_replaced_by_0(chunk: Any) -> None:
    assert parse_claimed_chunk({"batch": BATCH, "chunk": chunk}) == ClaimedChunk(BATCH, 0)


@given(JSON_VALUES, JSON_VALUES)
def test_every_claim_fits_into_a_response(batch: Any, chunk: Any) -> None:
    claim = parse_claimed_chunk({"batch": batch, "chunk": chunk})
    refusal = Refusal(code=Code.MALFORMED, field="", message="")
    outcome = Outcome(batch=claim.batch, chunk=claim.chunk, status="refused", refusal=refusal)
    assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome
