"""The schema of the replies, which allows what a later service may send."""

from enum import StrEnum
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from tests.unit.core.contract.test_request_schema import undescribed
from valetkey.wire.refusals import Code
from worker.core.contract import schemas
from worker.core.contract.schemas import reply_definitions, reply_schema

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
    "an outcome": OUTCOME,
    "usage": USAGE,
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


def test_the_schema_lists_all_known_codes_as_examples() -> None:
    assert reply_definitions()["Code"]["examples"] == [code.value for code in Code]


def test_every_field_of_a_reply_is_described() -> None:
    # A line `name: text` in the docstring of the reply's class describes a field.
    assert undescribed(reply_schema()) == []


KnownOrOther = Literal["a", "b"] | str  # noqa: PYI051 - its schema is not that of str


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (KnownOrOther, {"examples": ["a", "b"], "type": "string"}),
        (KnownOrOther | None, {"examples": ["a", "b"], "type": "string"}),
        (str | int | None, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (list[Literal["a", "b"]], {"items": {"examples": ["a", "b"], "type": "string"}}),
        (Colour | str, {"$ref": "#/$defs/Colour"}),
    ],
    ids=["list of values", "or null", "no list", "in an array", "enumeration"],
)
def test_an_open_list_of_values_is_a_text_with_examples(
    annotation: Any, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(schemas._CLASSES, "Colour", Colour)
    schema = TypeAdapter(annotation).json_schema(mode="serialization")
    schemas._walk(schema, schemas._open)
    assert schema | expected == schema
    assert "enum" not in str({name: schema[name] for name in schema if name != "$defs"})
