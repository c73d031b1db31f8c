import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from valetkey import Grant

VALUES: dict[str, Any] = {
    "id": "0199a000-0000-7000-8000-000000000000.0",
    "key": "acme/a",
    "method": "POST",
    "url": "https://storage.example.com/a?X-Amz-Signature=secret",
    "headers": {"content-type": "text/plain"},
    "expires_at": "2026-01-01T00:00:00Z",
    "limited_by": "request",
    "multipart": {
        "upload_id": "secret",
        "part_size": 5_242_880,
        "part_count": 1,
        "abort_url": "https://storage.example.com/a?X-Amz-Signature=secret",
    },
}


def grant(**changes: Any) -> Grant:
    return TypeAdapter(Grant).validate_python(VALUES | changes)


def test_a_grant_is_json_without_what_gives_access() -> None:
    shown = {"id", "key", "method", "expires_at", "limited_by", "multipart"}
    values = grant().to_dict()
    assert values.keys() == shown
    assert values["multipart"] == {"part_size": 5_242_880, "part_count": 1}
    assert json.loads(grant().to_json()) == values


def test_a_grant_is_json_with_its_url_if_that_is_asked_for() -> None:
    assert grant().to_dict(include_url=True) == VALUES
    assert json.loads(grant().to_json(include_url=True)) == VALUES


@pytest.mark.parametrize(("seconds", "is_expired"), [(60, False), (-1, True)])
def test_a_grant_knows_whether_it_has_expired(seconds: int, *, is_expired: bool) -> None:
    until = grant(expires_at=datetime.now(UTC) + timedelta(seconds=seconds))
    assert until.is_expired == is_expired
    assert until.seconds_left == pytest.approx(seconds, abs=30)
