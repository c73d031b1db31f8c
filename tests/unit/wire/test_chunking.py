from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from valetkey.wire.chunking import chunk_messages, uuid7
from valetkey.wire.messages import BatchId, ChunkMessage, Item
from valetkey.wire.parsing import parse_message
from valetkey.wire.pending import build_pending_message
from valetkey.wire.refusals import Code
from valetkey.wire.requests import GrantRequest
from valetkey.wire.terms import Checksum, Encryption, Kind

MOMENT = datetime(2026, 11, 24, 23, tzinfo=UTC)
REQUESTER = SimpleNamespace(tenant="acme", requested_by="test")


def header(
    total: int, chunk_size: int = 2, kind: Kind = "download", **options: Any
) -> dict[str, Any]:
    request = GrantRequest(kind, "reports", [], options, total, chunk_size)
    return request.header(REQUESTER, uuid7(0, bytes(10)))[0]


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=16))
def test_a_batch_id_is_a_uuid_of_version_7_that_carries_its_time(
    milliseconds: int, randomness: bytes
) -> None:
    text = TypeAdapter(BatchId).validate_python(uuid7(milliseconds, randomness))
    assert (UUID(text).version, UUID(text).int >> 80) == (7, milliseconds)


def test_all_randomness_of_a_batch_id_is_used() -> None:
    ids = {uuid7(0, (1 << bit).to_bytes(10)) for bit in range(80)}
    assert len(ids) == 74 + 1  # 74 random bits; the other six are version and variant


@given(st.integers(1, 30), st.integers(1, 7))
def test_a_batch_is_cut_into_messages_the_service_understands(total: int, size: int) -> None:
    keys = [f"k{number}" for number in range(total)]
    chunks = list(chunk_messages(header(total, size), keys))
    messages = [parse_message(chunk.body) for chunk in chunks]
    assert [m.chunk for m in messages if isinstance(m, ChunkMessage)] == list(range(len(chunks)))
    assert [key for chunk in chunks for key in [item["key"] for item in chunk.items]] == keys
    assert {chunk.refusal for chunk in chunks} == {None}


def test_the_fields_of_an_item_travel_with_it_unless_they_are_none() -> None:
    digest = Checksum(algorithm="sha256", value="A" * 43 + "=")
    expected = {"key": "a", "checksum": {"algorithm": "sha256", "value": digest.value}}
    for item in (Item(key="a", checksum=digest), {"key": "a", "checksum": digest, "size": None}):
        (chunk,) = chunk_messages(header(1, kind="upload", max_size=5), [item])
        assert chunk.body["items"] == [expected]


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({"expires": MOMENT}, {"expires": "Tue, 24 Nov 2026 23:00:00 GMT"}),
        (
            {"kind": "upload", "max_size": 5, "encryption": Encryption(algorithm="AES256")},
            {"encryption": {"algorithm": "AES256"}},
        ),
    ],
    ids=["a date to answer with", "encryption"],
)
def test_terms_travel_as_json_and_http_write_them(
    options: dict[str, Any], terms: dict[str, Any]
) -> None:
    (chunk,) = chunk_messages(header(1, **options), ["a"])
    assert terms.items() <= chunk.body["grant"].items()


def test_a_deadline_travels_as_text() -> None:
    assert header(1, deadline=MOMENT)["deadline"] == "2026-11-24T23:00:00+00:00"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"deadline": datetime(2026, 11, 24, 23)}, Code.MALFORMED),  # noqa: DTZ001 - that is the point
        ({"kind": "upload"}, Code.SIZE_REQUIRED),
    ],
)
def test_a_malformed_chunk_is_refused_before_it_is_sent(
    options: dict[str, Any], code: Code
) -> None:
    (chunk,) = chunk_messages(header(1, **options), ["a"])
    assert chunk.refusal is not None
    assert chunk.refusal.code is code


def test_a_malformed_header_refuses_every_chunk() -> None:
    chunks = list(chunk_messages(header(5, expires_in=0), ["a", "b", "c", "d", "e"]))
    assert [chunk.refusal and chunk.refusal.code for chunk in chunks] == [Code.EXPIRY_INVALID] * 3
    assert [[item["key"] for item in chunk.items] for chunk in chunks] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]


@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=5, max_size=5))
def test_a_chunk_of_keys_has_the_same_refusal_as_if_it_had_been_parsed(keys: list[str]) -> None:
    for expires_in in (60, 0):
        for chunk in chunk_messages(header(5, expires_in=expires_in), keys):
            assert chunk.refusal == build_pending_message(chunk.task_id, chunk.body).refusal


def test_a_malformed_item_refuses_its_own_chunk_only() -> None:
    malformed = {"key": "b", "part": 0}
    chunks = list(chunk_messages(header(6), ["a", "a", malformed, "a", "a", "a"]))
    assert [chunk.refusal and chunk.refusal.code for chunk in chunks] == [
        None,
        Code.PART_INVALID,
        None,
    ]


def test_no_more_items_are_read_than_the_next_chunk_needs() -> None:
    keys_read = []

    def keys() -> Iterator[str]:
        for number in range(6):
            keys_read.append(number)
            yield f"k{number}"

    next(chunk_messages(header(6), keys()))
    assert keys_read == [0, 1]


@pytest.mark.parametrize(("total", "complaint"), [(5, "there are 3 items"), (2, "more items")])
def test_a_wrong_total_is_an_error(total: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        list(chunk_messages(header(total), ["a", "b", "c"]))


def test_an_option_that_a_kind_does_not_have_is_an_error() -> None:
    with pytest.raises(TypeError, match="download has no option 'max_size'"):
        header(1, max_size=1)


@pytest.mark.parametrize("size", [0, 1_001])
def test_a_chunk_size_no_message_may_have_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 1000"):
        header(1, size)


def test_an_empty_batch_id_is_not_replaced_by_a_new_one() -> None:
    request = GrantRequest("download", "reports", ["a"], {}, batch_id="")
    fields, _ = request.header(REQUESTER, uuid7(0, bytes(10)))
    assert fields["batch"] == ""
