"""The schema of the requests, and the parser of the service, which must agree."""

import json
from functools import cache
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator

from tests.support.builders.messages import download_message, grant_message, upload_message
from tests.support.contract.valid_messages import Mutation, mutations, valid_messages
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Refusal
from worker.core.contract.schemas import request_classes, request_schema

MESSAGES = valid_messages()
# What the parser refuses in a message that the schema allows: rules between several fields.
FIELDS_OF_RULES = {"items", "grant.min_expires_in", "grant.min_size"}


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(request_schema())


def is_valid(message: Any) -> bool:
    return bool(validator().is_valid(message))


def refused_field(message: Any) -> str | None:
    """Return the field for which the parser refuses a message, None if it accepts the message."""
    parsed = parse_message(message)
    return parsed.field if isinstance(parsed, Refusal) else None


class Verdict(NamedTuple):
    """What the schema and the parser say of a changed message."""

    mutation: Mutation
    is_valid: bool
    refused_field: str | None


@cache
def verdicts(name: str) -> list[Verdict]:
    """Return the verdicts of all changes of the message with this name."""
    return [
        Verdict(mutation, is_valid(mutation.message), refused_field(mutation.message))
        for mutation in mutations(MESSAGES[name])
    ]


def is_lenient(mutation: Mutation) -> bool:
    """Return true for what the parser accepts and the schema does not, because nobody should."""
    is_number = isinstance(mutation.value, int | float)
    return mutation.path in {"v", "deadline"} and is_number


def test_the_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(request_schema())


@pytest.mark.parametrize("name", MESSAGES)
def test_the_schema_and_the_parser_accept_a_message_with_all_its_fields(name: str) -> None:
    assert is_valid(MESSAGES[name])
    assert refused_field(MESSAGES[name]) is None


@pytest.mark.parametrize("name", MESSAGES)
def test_the_parser_accepts_what_the_schema_allows(name: str) -> None:
    refused = [
        (mutation.path, mutation.value, field)
        for mutation, allowed, field in verdicts(name)
        if allowed and field is not None and field not in FIELDS_OF_RULES
    ]
    assert refused == []


@pytest.mark.parametrize("name", MESSAGES)
def test_the_parser_refuses_what_the_schema_forbids(name: str) -> None:
    accepted = [
        (mutation.path, mutation.value)
        for mutation, allowed, field in verdicts(name)
        if not allowed and field is None and not is_lenient(mutation)
    ]
    assert accepted == []


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (grant_message(total=2), "items"),
        (grant_message(chunk=1), "items"),
        (download_message(min_expires_in=301), "grant.min_expires_in"),
        (upload_message(min_size=500_001), "grant.min_size"),
        (download_message(expires_in=600.0), "grant.expires_in"),
        (grant_message(deadline="2026-02-30T12:00:00Z"), "deadline"),
        (download_message(filename="\ud800"), "grant.filename"),
    ],
    ids=["total", "chunk", "min_expires_in", "min_size", "600.0", "no such day", "surrogate"],
)
def test_a_schema_cannot_express_these_rules_of_the_parser(message: Any, field: str) -> None:
    assert is_valid(message)
    assert refused_field(message) == field


def test_the_schema_has_a_definition_for_each_message() -> None:
    schema = request_schema()
    names = [item.__name__ for item in request_classes()]
    assert [item["$ref"] for item in schema["anyOf"]] == [f"#/$defs/{name}" for name in names]
    assert set(names) < set(schema["$defs"])


def test_every_object_of_a_request_forbids_unknown_fields() -> None:
    definitions = request_schema()["$defs"].values()
    assert [item["additionalProperties"] for item in definitions] == [False] * len(definitions)


def test_every_field_of_a_request_is_described() -> None:
    # A line `name: text` in the docstring of the message's class describes a field.
    assert undescribed(request_schema()) == []


def undescribed(schema: dict[str, Any]) -> list[str]:
    return [
        f"{name}.{field}"
        for name, definition in schema["$defs"].items()
        for field, value in definition.get("properties", {}).items()
        if not value.get("description")
    ]


def test_a_schema_is_the_same_each_time() -> None:
    assert json.dumps(request_schema()) == json.dumps(request_schema())
