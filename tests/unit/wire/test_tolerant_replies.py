"""Replies of a later service, and forged hints: law 12, replies are read tolerantly."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from hypothesis import given
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from tests.support.builders.replies import (
    GRANT,
    OPEN_FIELDS,
    QUOTA,
    REFUSAL,
    REPLIES,
    grown_replies,
    objects,
    renamed_replies,
)
from valetkey.crypto.codec import Codec
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import Grant, MultipartInfo, Outcome, Reply
from valetkey.wire.unavailable import MAX_AGE, MAX_RETRY_IN, read_unavailable

ADAPTER: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="status")])


def read(reply: Any) -> Any:
    """Return what a client without a key makes of a reply."""
    return Codec(None).decode(json.dumps({"status": "SUCCESS", "result": reply}))


def open_values(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values of open lists in a reply that was read."""
    if isinstance(value, list):
        for entry in value:
            yield from open_values(entry)
    elif isinstance(value, BaseModel | Grant):
        for name in type(value).__annotations__:
            entry = getattr(value, name)
            if name in OPEN_FIELDS:
                yield name, entry
            yield from open_values(entry)


@given(grown_replies())
def test_unknown_fields_at_any_depth_are_ignored(
    replies: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    reply, grown = replies
    assert read(grown) == read(reply) == ADAPTER.validate_json(json.dumps(reply))


@given(renamed_replies())
def test_unknown_values_of_open_lists_are_kept_as_text(
    renamed: tuple[dict[str, Any], dict[str, str]],
) -> None:
    reply, values = renamed
    expected = [
        (name, values[name]) for entry in objects(reply) for name in entry if name in values
    ]
    assert sorted(open_values(read(reply))) == sorted(expected)


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_of_today_has_known_values_only(name: str) -> None:
    for field, value in open_values(read(REPLIES[name])):
        assert field != "code" or isinstance(value, Code)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (Grant, GRANT | {"expires_at": "s3cret"}),
        (MultipartInfo, {"upload_id": "s3cret", "part_size": "s3cret"}),
        (Refusal, REFUSAL | {"field": ["s3cret"]}),
        (QuotaState, QUOTA | {"limit": "s3cret"}),
        (Outcome, {"batch": ["s3cret"]}),
    ],
)
def test_the_error_for_an_invalid_reply_contains_none_of_it(model: Any, values: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(model).validate_python(values)
    assert "s3cret" not in str(caught.value)


def test_the_repr_of_a_reply_contains_no_url() -> None:
    reply = read(REPLIES["grants"])
    assert isinstance(reply, Outcome)
    assert "s3cret" not in repr(reply)
    assert "s3cret" in reply.model_dump_json()


def test_a_field_of_the_wrong_type_is_no_reply() -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(REPLIES["a cancellation"] | {"issued": "1"})


NOW = 1_764_200_000


@pytest.mark.parametrize(
    ("retry_in", "read"), [(0, 0), (32, 32), (10**10, MAX_RETRY_IN), (-1, None), ("9", None)]
)
def test_a_forged_time_to_wait_is_at_most_an_hour(retry_in: Any, read: int | None) -> None:
    result = {"code": "unavailable", "part": "database", "retry_in": retry_in, "at": NOW}
    hint = read_unavailable(result, NOW)
    assert hint is not None
    assert hint.retry_in == read


@pytest.mark.parametrize(
    ("retry_in", "seconds"), [(None, MAX_AGE), (30, MAX_AGE + 30), (3_600, 2 * MAX_AGE)]
)
@pytest.mark.parametrize("direction", [-1, 1], ids=["future", "past"])
def test_a_hint_from_the_future_is_ignored_as_early_as_one_from_the_past(
    retry_in: int | None, seconds: int, direction: int
) -> None:
    result = {"code": "unavailable", "part": "database", "retry_in": retry_in, "at": NOW}
    assert read_unavailable(result, NOW + direction * seconds) is not None
    assert read_unavailable(result, NOW + direction * (seconds + 1)) is None
