from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import download_message, grant_message, upload_message
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Code, Refusal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def refusal_of(raw: Any) -> Refusal:
    refusal = parse_message(raw)
    assert isinstance(refusal, Refusal)
    return refusal


def code_and_field(raw: Any) -> tuple[str, str]:
    refusal = refusal_of(raw)
    return str(refusal.code), refusal.field


@pytest.mark.parametrize("raw", [None, [], "text", 7, b"bytes"])
def test_a_value_that_is_not_an_object_is_malformed(raw: Any) -> None:
    assert code_and_field(raw) == ("malformed", "")


@pytest.mark.parametrize("seconds", [0, -1, 1.5, "3600", True, None, float("nan"), 604_801, 2**63])
def test_an_expires_in_that_is_not_whole_seconds_up_to_seven_days_is_refused(seconds: Any) -> None:
    refusal = refusal_of(download_message(expires_in=seconds))
    assert (refusal.code, refusal.field) == ("expiry_invalid", "grant.expires_in")
    assert seconds != 604_801 or refusal.limit == 604_800


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        ({"v": 2, "ask": "later", "tenant": "acme"}, "version_unknown", "v"),
        ({"v": 1, "ask": "later", "tenant": "acme"}, "malformed", "ask"),
        (grant_message(surprise=1), "unknown_field", "surprise"),
        (download_message(surprise=1), "unknown_field", "grant.surprise"),
        (grant_message(items=[{"key": "acme/a", "acl": "x"}]), "unknown_field", "items[0].acl"),
        (download_message(kind="delete"), "kind_not_allowed", "grant"),
        (grant_message(tenant="Acme!"), "malformed", "tenant"),
        (grant_message(requested_by="a\0b"), "malformed", "requested_by"),
        (grant_message(deadline="soon"), "malformed", "deadline"),
        (grant_message(items=[{"key": 7}]), "key_invalid", "items[0].key"),
        (grant_message(items=[]), "malformed", "items"),
        (grant_message(total=0), "malformed", "total"),
        (grant_message(total=1_000_001), "batch_too_large", "total"),
        (grant_message(["acme/a"] * 1_001), "batch_too_large", "items"),
        (grant_message(total=2), "chunk_invalid", "items"),
        (grant_message(chunk=-1), "chunk_invalid", "chunk"),
        (grant_message(chunk_size=1_001), "chunk_invalid", "chunk_size"),
        (upload_message(max_size=0), "size_invalid", "grant.max_size"),
        (upload_message(max_size=5 * 1024**3 + 1), "size_invalid", "grant.max_size"),
        (upload_message(min_size=500_001), "size_invalid", "grant.min_size"),
        (
            download_message(expires_in=60, min_expires_in=61),
            "expiry_invalid",
            "grant.min_expires_in",
        ),
        (grant_message(manifest=7), "key_invalid", "manifest"),
        (upload_message(metadata={"a": 1}), "metadata_invalid", "grant.metadata.a"),
        (upload_message(metadata={"a": "b\r\nc"}), "metadata_invalid", "grant.metadata.a"),
        (upload_message(content_type="a/b\r\nX: y"), "content_type_invalid", "grant.content_type"),
        (download_message(filename="a\ud800"), "filename_invalid", "grant.filename"),
    ],
)
def test_a_wrong_field_is_refused_by_name_and_code(raw: Any, code: str, field: str) -> None:
    assert code_and_field(raw) == (code, field)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (download_message(expires_in=604_801), "must be at most 7 days"),
        (upload_message(max_size=0), "must be at least 1 byte"),
        (grant_message(["acme/a"] * 1_001), "must have at most 1,000 entries"),
        (grant_message(requested_by=""), "must not be empty"),
        (grant_message(requested_by="a\0b"), "must not contain control characters"),
        (grant_message(requested_by="a" * 201), "must have at most 200 characters"),
        (grant_message(deadline="2026-11-24T12:00:00"), "date and time with a time zone"),
        (download_message(method="PUT"), "must be 'GET' or 'HEAD'"),
        (download_message(kind="delete"), "kind must be one of 'download', 'upload', 'put'"),
        (
            grant_message(ask="later"),
            "'usage', 'cancel', 'batch', 'service', 'status', 'reissue', 'bundle' or 'listen'",
        ),
        (grant_message(surprise=1), "unknown field"),
        (grant_message(total=2), "chunk, chunk_size, total and items do not agree"),
    ],
)
def test_a_refusal_states_the_cause_and_the_limit(raw: Any, message: str) -> None:
    assert message in refusal_of(raw).message


def test_a_refusal_never_repeats_the_value_it_refuses() -> None:
    assert "letmein" not in repr(refusal_of(download_message(kind="letmein")))


@given(JSON)
def test_any_json_value_is_parsed_or_refused(raw: Any) -> None:
    assert isinstance(parse_message(raw), ChunkMessage | Refusal)


@given(st.sampled_from(sorted(grant_message())), JSON)
def test_any_json_value_in_any_field_is_parsed_or_refused(field: str, value: Any) -> None:
    assert isinstance(parse_message(grant_message() | {field: value}), ChunkMessage | Refusal)


def test_the_path_of_an_unknown_field_is_cut_off() -> None:
    assert len(refusal_of(grant_message() | {"x" * 10_000: 1}).field) < 120


def test_the_refusal_of_another_version_names_the_version_that_is_read() -> None:
    refusal = refusal_of({"v": 2, "tenant": "acme", "later": {}})
    assert (refusal.code, refusal.limit) == (Code.VERSION_UNKNOWN, 1)
    assert refusal.message == "must be 1, the version of the messages that is read"
