"""Fingerprints of batches, also while the service is updated, and the history of a batch id."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, create_model

from tests.support.builders.messages import grant_message
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms, Download, Encryption, Put, WireModel
from worker.rules import fingerprints
from worker.rules.fingerprints import (
    BATCH_CLOSED,
    BATCH_CONFLICT,
    BatchHistory,
    DecidedChunk,
    RecordedBatch,
    header_fingerprint,
    items_fingerprint,
    recorded_terms,
    salted_fingerprint,
)

# Computed by release 0.1.0, and in the tables of its databases.
FIRST_FINGERPRINTS = json.loads(
    Path(__file__).with_name("first_fingerprints.json").read_text(encoding="utf-8")
)
RAW = grant_message(
    ["acme/ü.pdf"],
    batch="0199a000-0000-7000-8000-000000000000",
    requested_by="billing",
    reason=None,
    total=2,
    chunk_size=1,
)
MESSAGE = ChunkMessage.model_validate(RAW)
TERMS: TypeAdapter[AnyTerms] = TypeAdapter(AnyTerms)
LATER_TERMS = {"plain"}  # left out of fingerprints unless it was said


class Zone(WireModel):
    """A part that a later release adds."""

    name: str
    strict: bool = False


class LaterEncryption(Encryption):
    context: str | None = None
    bucket_key: bool = False


class LaterDownload(Download):
    note: str | None = None
    once: bool = False
    zones: list[Zone] | None = None


class LaterPut(Put):
    encryption: LaterEncryption | None = None
    once: bool = False


class LaterItem(Item):
    note: str | None = None
    once: bool = False


class LaterMessage(ChunkMessage):
    """A message of a release with new fields in the header, the terms and the items."""

    grant: Annotated[LaterDownload | LaterPut, Field(discriminator="kind")]
    items: Annotated[list[LaterItem], Field(min_length=1)]  # type: ignore[assignment]
    priority: Literal["normal", "high"] = "normal"
    notes: str | None = None


def later_header(changes: dict[str, Any] | None = None, **terms: Any) -> bytes:
    """Return the header fingerprint of RAW with changes, as a later release computes it."""
    raw = RAW | (changes or {}) | {"grant": RAW["grant"] | terms}
    return header_fingerprint(LaterMessage.model_validate(raw))


def put_grant(**terms: Any) -> dict[str, Any]:
    """Return the terms of a put, for RAW with changes."""
    return {"kind": "put", "max_size": 10, **terms}


@pytest.mark.parametrize("first", FIRST_FINGERPRINTS, ids=lambda first: str(first["name"]))
def test_fingerprints_are_those_of_release_0_1_0(first: dict[str, Any]) -> None:
    message = ChunkMessage.model_validate(first["message"])
    assert header_fingerprint(message).hex() == first["header"]
    assert items_fingerprint(message).hex() == first["items"]


def test_the_first_fingerprints_cover_every_kind_and_every_field_of_today() -> None:
    messages = [ChunkMessage.model_validate(first["message"]) for first in FIRST_FINGERPRINTS]
    said_by_kind: dict[str, set[str]] = {}
    for message in messages:
        said_by_kind.setdefault(message.grant.kind, set()).update(message.grant.model_fields_set)
    assert said_by_kind["download"] == set(Download.model_fields) - LATER_TERMS
    assert said_by_kind["put"] == set(Put.model_fields)
    assert set(said_by_kind) == {"download", "upload", "put", "multipart", "parts"}
    assert {"reason", "callback", "deadline", "manifest"} <= set.union(
        *(message.model_fields_set for message in messages)
    )


@pytest.mark.parametrize("first", FIRST_FINGERPRINTS, ids=lambda first: str(first["name"]))
def test_recorded_terms_are_complete_as_in_release_0_1_0(first: dict[str, Any]) -> None:
    terms = ChunkMessage.model_validate(first["message"]).grant
    expected = terms.model_dump(mode="json", exclude_none=True, exclude=LATER_TERMS)
    assert recorded_terms(terms) == expected


def test_fields_of_a_later_release_change_no_fingerprint_while_nobody_says_them() -> None:
    assert later_header() == header_fingerprint(MESSAGE)


def test_a_producer_that_begins_to_say_a_default_sends_the_same_request() -> None:
    changes = {"priority": "normal", "notes": None, "callback": None, "v": 1}
    header = later_header(changes, note=None, once=False, zones=None, inline=False, method="GET")
    assert header == header_fingerprint(MESSAGE)


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        *((header, {}) for header in ({"priority": "high"}, {"reason": "x"}, {"total": 3})),
        *(({}, terms) for terms in ({"once": True}, {"zones": [{"name": "a"}]}, {"inline": True})),
    ],
)
def test_a_said_value_of_header_or_terms_changes_the_fingerprint(
    changes: dict[str, Any], terms: dict[str, Any]
) -> None:
    assert later_header(changes, **terms) != header_fingerprint(MESSAGE)


def test_a_default_that_changes_later_is_still_the_same_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fingerprints, "_CHANGED_DEFAULTS", {"once": False})
    changed = create_model("Changed", __base__=LaterDownload, once=(bool, True))
    for said in ({}, {"once": False}, {"once": True}):
        message = MESSAGE.model_copy(update={"grant": changed.model_validate(RAW["grant"] | said)})
        assert header_fingerprint(message) == later_header(None, **said)


def test_a_part_of_the_terms_may_get_a_field_as_well() -> None:
    grant = RAW["grant"] | put_grant(encryption={"algorithm": "AES256"})
    today = header_fingerprint(ChunkMessage.model_validate(RAW | {"grant": grant}))
    unsaid = later_header(None, **put_grant(encryption={"algorithm": "AES256"}))
    default = {"algorithm": "AES256", "bucket_key": False, "context": None, "key": None}
    assert unsaid == later_header(None, **put_grant(encryption=default)) == today
    said = {"algorithm": "AES256", "bucket_key": True}
    assert later_header(None, **put_grant(encryption=said)) != today


def test_a_part_in_a_list_is_compared_by_what_was_said() -> None:
    earlier = create_model("Earlier", __base__=WireModel, name=(str, ...))
    earlier_terms = create_model("Terms", __base__=Download, zones=(list[earlier], ...))
    terms = earlier_terms.model_validate(RAW["grant"] | {"zones": [{"name": "a"}]})
    before = header_fingerprint(MESSAGE.model_copy(update={"grant": terms}))
    assert later_header(None, zones=[{"name": "a"}]) == before
    assert later_header(None, zones=[{"name": "a", "strict": False}]) == before
    assert later_header(None, zones=[{"name": "a", "strict": True}]) != before


@pytest.mark.parametrize("key", ["acme/ü.pdf", "acme/\ud800.pdf"])
def test_items_are_compared_by_what_was_said(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(fingerprints, "_ITEMS", TypeAdapter(list[LaterItem]))
    today = items_fingerprint(ChunkMessage.model_validate(RAW | {"items": [{"key": key}]}))

    def later(**item: Any) -> bytes:
        raw = RAW | {"items": [{"key": key, **item}]}
        return items_fingerprint(LaterMessage.model_validate(raw))

    assert later() == later(once=False, note=None) == today
    assert later(note="x") != today
    assert later(once=True) != today


def test_recorded_terms_leave_out_later_terms_that_nobody_said() -> None:
    terms = LaterDownload.model_validate(RAW["grant"] | {"once": False})
    assert TERMS.validate_python(recorded_terms(terms)) == MESSAGE.grant
    said = LaterDownload.model_validate(RAW["grant"] | {"once": True})
    assert recorded_terms(said)["once"] is True


def test_keys_that_utf8_cannot_encode_have_different_items_fingerprints() -> None:
    first, second = (
        ChunkMessage.model_validate(RAW | {"items": [{"key": key}]})
        for key in ("acme/\ud800", "acme/\ud801")
    )
    assert items_fingerprint(first) != items_fingerprint(second)


STARTED_AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
SALT = bytes(16)
OVER_QUOTA = Refusal(code=Code.QUOTA_EXCEEDED, field="total", message="over the quota")


def recorded_batch(**changes: Any) -> RecordedBatch:
    """Return the open batch of MESSAGE, whose second item is not decided yet."""
    fingerprint = salted_fingerprint(SALT, header_fingerprint(MESSAGE))
    batch = RecordedBatch(1, "download", "demo", 2, 1, fingerprint, None, STARTED_AT, 1, SALT)
    return batch._replace(**changes)


def decided_chunk(refusal: Refusal | None = None, **item: Any) -> DecidedChunk:
    """Return the decision on MESSAGE, or on the same chunk with other item fields."""
    message = ChunkMessage.model_validate(RAW | {"items": [{"key": "acme/ü.pdf", **item}]})
    fingerprint = salted_fingerprint(SALT, items_fingerprint(message))
    return DecidedChunk(fingerprint, STARTED_AT, refusal)


OPEN = recorded_batch()
CLOSED = recorded_batch(remaining=None)
REFUSED = recorded_batch(refusal=OVER_QUOTA, remaining=None)
ERASED = recorded_batch(request_salt=None)
OTHER_HEADER = recorded_batch(fingerprint=bytes(32))
ISSUED = decided_chunk()
OTHER_ITEMS = decided_chunk(filename="other.pdf")
OTHER_REFUSED = decided_chunk(OVER_QUOTA, filename="other.pdf")


HISTORIES = {
    "unused batch id": (BatchHistory(), None),
    "cancelled before it began": (BatchHistory(is_cancelled=True), BATCH_CLOSED),
    "open batch": (BatchHistory(OPEN), None),
    "closed batch": (BatchHistory(CLOSED), BATCH_CLOSED),
    "refused batch": (BatchHistory(REFUSED), OVER_QUOTA),
    "other header": (BatchHistory(OTHER_HEADER), BATCH_CONFLICT),
    "texts of the batch were erased": (BatchHistory(ERASED), BATCH_CONFLICT),
    "other items": (BatchHistory(OPEN, OTHER_ITEMS), BATCH_CONFLICT),
    "issued chunk, closed batch": (BatchHistory(CLOSED, ISSUED), None),
    "issued chunk, cancelled batch": (BatchHistory(CLOSED, ISSUED, is_cancelled=True), None),
    "other items, refused chunk": (BatchHistory(REFUSED, OTHER_REFUSED), BATCH_CONFLICT),
}


@pytest.mark.parametrize(("history", "refusal"), HISTORIES.values(), ids=HISTORIES)
def test_the_history_alone_refuses_a_message_or_leaves_the_decision_open(
    history: BatchHistory, refusal: Refusal | None
) -> None:
    assert history.refusal_of(MESSAGE) == refusal


@pytest.mark.parametrize(("total", "chunks"), [(1, 1), (600, 1), (601, 2), (100_000, 167)])
def test_the_chunk_count_includes_a_shorter_last_chunk(total: int, chunks: int) -> None:
    assert recorded_batch(total=total, chunk_size=600).chunk_count == chunks
