"""The schema of the replies, which allows what a later service may send."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.unit.contract.test_request_schema import undescribed
from worker.contract.json_schemas import reply_schema

REFUSAL = {"code": "key_empty", "field": "items[0].key", "message": "empty", "key": ""}
GRANT = {
    "id": "0199a000-0000-7000-8000-000000000000.0",
    "key": "acme/a",
    "method": "GET",
    "url": "https://storage.example.com/acme/a",
    "expires_at": "2026-11-24T12:00:00Z",
    "limited_by": "request",
}
OUTCOME = {"batch": GRANT["id"][:36], "chunk": 0, "status": "issued", "items": [GRANT, REFUSAL]}
QUOTA = {"metric": "grants", "window": "live", "limit": 5, "used": 1}
USAGE = {"status": "told", "tenant": "acme", "quotas": [QUOTA]}


def is_valid(reply: Any) -> bool:
    return bool(Draft202012Validator(reply_schema()).is_valid(reply))


def outcome(item: dict[str, Any]) -> dict[str, Any]:
    return OUTCOME | {"items": [item]}


def test_the_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(reply_schema())


ACCEPTED = {
    "a later field of a reply": OUTCOME | {"surprise": 1},
    "a later field of a grant": outcome(GRANT | {"surprise": {"a": [1]}}),
    "a later field of a refusal": outcome(REFUSAL | {"surprise": None}),
    "a later code": outcome(REFUSAL | {"code": "a_later_code"}),
    "a later limit": outcome(GRANT | {"limited_by": "a later limit"}),
    "a later method": outcome(GRANT | {"method": "DELETE"}),
    "a later metric": USAGE | {"quotas": [QUOTA | {"metric": "later_bytes", "window": "year"}]},
}
REFUSED = {
    "another status": OUTCOME | {"status": "later"},
    "no status": {name: value for name, value in OUTCOME.items() if name != "status"},
    "no url": outcome({name: value for name, value in GRANT.items() if name != "url"}),
    "a number as a code": outcome(REFUSAL | {"code": 7}),
    "a number in a header": outcome(GRANT | {"headers": {"a": 1}}),
    "quotas that are no list": USAGE | {"quotas": {}},
}


@pytest.mark.parametrize("reply", ACCEPTED.values(), ids=ACCEPTED)
def test_the_schema_accepts_what_this_or_a_later_service_sends(reply: dict[str, Any]) -> None:
    assert is_valid(reply)


@pytest.mark.parametrize("reply", REFUSED.values(), ids=REFUSED)
def test_the_schema_refuses_what_is_no_reply(reply: dict[str, Any]) -> None:
    assert not is_valid(reply)


def test_every_field_of_a_reply_is_described() -> None:
    # A line `name: text` in the docstring of the reply's class describes a field.
    assert undescribed(reply_schema()) == []
