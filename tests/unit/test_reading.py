from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.requests import granting, message, uploading
from valetkey.messages import BatchAsk, Message
from valetkey.reading import read
from valetkey.refusals import Refusal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def refused(raw: Any) -> tuple[str, str]:
    refusal = read(raw)
    assert isinstance(refusal, Refusal)
    return refusal.code.value, refusal.field


@pytest.mark.parametrize("raw", [message(), granting(min_expires_in=60), uploading()])
def test_a_valid_message_is_read_whole(raw: dict[str, Any]) -> None:
    assert isinstance(read(raw), Message)


@pytest.mark.parametrize("raw", [None, [], "text", 7, b"bytes"])
def test_what_is_no_object_is_malformed(raw: Any) -> None:
    assert refused(raw) == ("malformed", "")


@pytest.mark.parametrize(
    "expires_in", [0, -1, 1.5, "3600", True, None, float("nan"), 604_801, 2**63]
)
def test_a_life_that_is_no_whole_number_of_seconds_up_to_seven_days_is_refused(
    expires_in: Any,
) -> None:
    assert refused(granting(expires_in=expires_in)) == ("expiry_invalid", "grant.expires_in")


def test_an_invalid_life_is_told_the_longest_one() -> None:
    refusal = read(granting(expires_in=10**6))
    assert isinstance(refusal, Refusal)
    assert refusal.limit == 604_800


def test_a_shortest_life_over_the_longest_is_refused() -> None:
    raw = granting(expires_in=60, min_expires_in=61)
    assert refused(raw) == ("expiry_invalid", "grant.min_expires_in")


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (message(v=2), "version_unknown", "v"),
        (message(surprise=1), "unknown_field", "surprise"),
        (granting(surprise=1), "unknown_field", "grant.surprise"),
        (message(items=[{"key": "acme/a", "acl": "x"}]), "unknown_field", "items[0].acl"),
        (granting(kind="delete"), "kind_not_allowed", "grant"),
        (message(tenant="Acme!"), "malformed", "tenant"),
        (message(batch="1"), "malformed", "batch"),
        (message(requested_by=""), "malformed", "requested_by"),
        (message(requested_by="a\0b"), "malformed", "requested_by"),
        (message(deadline="soon"), "malformed", "deadline"),
        (message(items=[{"key": 7}]), "key_invalid", "items[0].key"),
        (message(items=[]), "malformed", "items"),
        (message(total=0), "malformed", "total"),
        (message(total=1_000_001), "batch_too_large", "total"),
        (message(["acme/a"] * 1_001), "batch_too_large", "items"),
        (message(total=2), "chunk_invalid", "items"),
        (message(chunk=1), "chunk_invalid", "items"),
        (message(chunk=-1), "chunk_invalid", "chunk"),
        (message(chunk_size=1_001), "chunk_invalid", "chunk_size"),
        (uploading(max_size=0), "size_invalid", "grant.max_size"),
        (uploading(max_size=5 * 1024**3 + 1), "size_invalid", "grant.max_size"),
        (uploading(min_size=500_001), "size_invalid", "grant.min_size"),
        (uploading(metadata={"a": 1}), "metadata_invalid", "grant.metadata.a"),
        (uploading(metadata={"a": "b\r\nc"}), "metadata_invalid", "grant.metadata.a"),
        (uploading(content_type="image/png\r\nX: y"), "content_type_invalid", "grant.content_type"),
        (granting(filename="a\ud800"), "filename_invalid", "grant.filename"),
    ],
)
def test_a_wrong_field_is_named_with_its_code(raw: Any, code: str, field: str) -> None:
    assert refused(raw) == (code, field)


def asking(**said: Any) -> dict[str, Any]:
    return {"v": 1, "ask": "batch", "tenant": "acme", "batch": message()["batch"], **said}


@pytest.mark.parametrize("raw", [asking(), asking(chunk=0), asking(chunk=None)])
def test_a_question_about_a_batch_is_read(raw: dict[str, Any]) -> None:
    assert isinstance(read(raw), BatchAsk)


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (asking(batch="1"), "malformed", "batch"),
        (asking(chunk=-1), "chunk_invalid", "chunk"),
        (asking(chunk="0"), "chunk_invalid", "chunk"),
        (asking(total=1), "unknown_field", "total"),
        (asking(ask="batches"), "malformed", "requested_by"),
    ],
)
def test_a_wrong_question_about_a_batch_is_refused(raw: Any, code: str, field: str) -> None:
    assert refused(raw) == (code, field)


def test_an_upload_without_a_size_limit_is_refused() -> None:
    raw = uploading()
    del raw["grant"]["max_size"]
    assert refused(raw) == ("size_required", "grant.max_size")


def test_a_refusal_never_repeats_the_value_it_refuses() -> None:
    refusal = read(granting(kind="letmein"))
    assert "letmein" not in repr(refusal)


@given(JSON)
def test_any_json_value_is_read_or_refused(raw: Any) -> None:
    assert isinstance(read(raw), Message | Refusal)


@given(st.sampled_from(sorted(message())), JSON)
def test_any_json_value_in_any_field_is_read_or_refused(field: str, value: Any) -> None:
    assert isinstance(read(message() | {field: value}), Message | Refusal)
