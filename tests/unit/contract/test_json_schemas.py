"""The schemas of requests, replies and Celery's messages agree with what the service reads."""

import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator

from tests.support.builders.frames import build_frame
from tests.support.builders.messages import (
    batch_id,
    download_message,
    grant_message,
    upload_message,
)
from tests.support.builders.replies import GRANT, QUOTA, REPLIES
from tests.support.builders.replies import ITEM_REFUSAL as REFUSAL
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Refusal
from worker.broker import message_guard
from worker.broker.message_guard import InvalidMessage, read_frame
from worker.contract import json_schemas
from worker.contract.json_schemas import reply_schema, request_schema

# Values of every type, and beyond every limit that a field may have. 1.0 and texts that end in a
# line feed are left out: see the tests of what a schema cannot express.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 1.5, 1_001, 10_001, 604_801, 1_000_001, 5 * 1024**4 + 1),
    *("", "x", "a\x00b", "A" * 201, "A" * 2_049, ["x"], {}, {"x": "y"}, {"x": "y" * 2_049}),
)

STORAGE_TERMS: dict[str, Any] = {
    "content_type": "image/png",
    "acl": "public-read",
    "metadata": {"title": "a"},
    "tags": {"team": "a"},
    "storage_class": "STANDARD_IA",
    "encryption": {"algorithm": "aws:kms", "key": "arn:aws:kms:eu-central-1:111122223333:key/1"},
}
TERMS: dict[str, dict[str, Any]] = {
    "download": {
        "method": "HEAD",
        "filename": "a.pdf",
        "content_type": "application/pdf",
        "inline": True,
        "cache_control": "no-store",
        "content_language": "de",
        "content_encoding": "gzip",
        "expires": "Tue, 24 Nov 2026 12:00:00 GMT",
        "check_owner": True,
    },
    "upload": STORAGE_TERMS
    | {
        "max_size": 500_000,
        "min_size": 0,
        "success_status": 201,
        "success_redirect": "https://example.com/done",
    },
    "put": STORAGE_TERMS | {"max_size": 500_000, "overwrite": True, "check_owner": False},
    "multipart": STORAGE_TERMS | {"max_size": 5 * 1024**4, "part_size": 5 * 1024**2},
    "parts": {"of": "0199a000-0000-7000-8000-000000000000.0"},
}
ITEMS: dict[str, dict[str, Any]] = {
    "download": {"filename": "b.pdf", "version_id": "abc"},
    "upload": {"size": 5, "checksum": {"algorithm": "crc32", "value": "AAAAAA=="}},
    "put": {"size": 5, "checksum": None},
    "multipart": {"size": 5 * 1024**4},
    "parts": {"part": 10_000},
}


class Mutation(NamedTuple):
    """A changed message, and the path and new value of the change; "absent" for a removed field."""

    path: str
    value: Any
    message: dict[str, Any]


def valid_messages() -> dict[str, dict[str, Any]]:
    """Return a valid message of each kind and each ask, by name."""
    messages = {kind: _chunk_message(kind) for kind in TERMS}
    messages["explain"] = _chunk_message("download") | {"ask": "explain"}
    messages["usage"] = {"v": 1, "ask": "usage", "tenant": "acme"}
    about_batch = {"v": 1, "tenant": "acme", "batch": batch_id()}
    messages["batch"] = about_batch | {"ask": "batch", "chunk": 3}
    messages["status"] = about_batch | {"ask": "status", "items": [0, 9], "probe": True}
    messages["reissue"] = about_batch | {"ask": "reissue", "of": f"{batch_id()}.7"}
    messages["reissue"] |= {"requested_by": "ann", "reason": "a", "recipient": "b"}
    messages["reissue"]["expires_in"] = 60
    messages["cancel"] = about_batch | {"ask": "cancel", "requested_by": "ann", "reason": "a b"}
    return messages


def _chunk_message(kind: str) -> dict[str, Any]:
    terms = {"kind": kind, "bucket": "demo", "expires_in": 600, "min_expires_in": 60}
    return {
        "v": 1,
        "ask": "grants",
        "tenant": "acme",
        "batch": batch_id(),
        "requested_by": "billing",
        "reason": "statements",
        "grant": terms | TERMS[kind],
        "total": 3,
        "chunk_size": 2,
        "chunk": 1,
        "items": [{"key": "acme/a"} | ITEMS[kind]],
        "callback": "hook",
        "notify": ["upload.stored", "upload.unused"],
        "deadline": "2026-11-24T12:00:00+01:00",
        "manifest": "acme/manifest.gz",
    }


def mutations(message: dict[str, Any]) -> Iterator[Mutation]:
    """Yield the message with each of its fields removed, replaced by other values, or added to.

    The fields that all kinds of grant share are changed in a download only, to save time.
    """
    is_other_kind = message.get("grant", {}).get("kind") not in {None, "download"}
    for path in _paths(message):
        if is_other_kind and path[0] not in {"grant", "items"}:
            continue
        for value in (*VALUES, "absent"):
            changed = copy.deepcopy(message)
            *parents, last = path
            target: Any = changed
            for step in parents:
                target = target[step]
            if value == "absent":
                target.pop(last, None) if isinstance(target, dict) else target.pop(last)
            else:
                target[last] = value
            yield Mutation(".".join(map(str, path)), value, changed)


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all members and elements, and of one unknown member in each object."""
    steps = [*value, "surprise"] if isinstance(value, dict) else range(len(value))
    for step in steps:
        yield (step,)
        child = None if step == "surprise" else value[step]
        if isinstance(child, dict | list):
            yield from ((step, *rest) for rest in _paths(child))


MESSAGES = valid_messages()
# What the parser refuses in a message that the schema allows: rules between several fields.
FIELDS_OF_RULES = {"items", "grant.min_expires_in", "grant.min_size"}


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(getattr(json_schemas, f"{name}_schema")())


def is_valid(message: Any, schema: str = "request") -> bool:
    return bool(validator(schema).is_valid(message))


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


@pytest.mark.parametrize("schema", [request_schema, reply_schema])
def test_every_field_is_described(schema: Callable[[], dict[str, Any]]) -> None:
    # A line `name: text` in the docstring of the message's class describes a field.
    undescribed = [
        f"{name}.{field}"
        for name, definition in schema()["$defs"].items()
        for field, value in definition.get("properties", {}).items()
        if not value.get("description")
    ]
    assert undescribed == []


OUTCOME, USAGE = REPLIES["grants"], REPLIES["a usage"]


def outcome(item: dict[str, Any]) -> dict[str, Any]:
    return OUTCOME | {"items": [item]}


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
    assert is_valid(reply, "reply")


@pytest.mark.parametrize("reply", REFUSED.values(), ids=REFUSED)
def test_the_schema_refuses_what_is_no_reply(reply: dict[str, Any]) -> None:
    assert not is_valid(reply, "reply")


NOW = datetime(2026, 11, 24, tzinfo=UTC)


def minimal_frame() -> dict[str, Any]:
    """Return a frame with nothing but what the schema requires."""
    frame = build_frame()
    return frame | {
        "headers": {name: frame["headers"][name] for name in ("task", "id")},
        "properties": {"body_encoding": "base64"},
    }


def is_read(frame: dict[str, Any]) -> bool:
    try:
        read_frame(json.dumps(frame).encode(), "valetkey", NOW)
    except InvalidMessage:
        return False
    return True


@pytest.mark.parametrize("name", ["envelope", "result", "request", "reply", "webhook"])
def test_the_schema_is_a_valid_schema(name: str) -> None:
    Draft202012Validator.check_schema(getattr(json_schemas, f"{name}_schema")())


def test_the_frames_of_celery_and_the_smallest_one_are_valid_and_read() -> None:
    for frame in (build_frame(), minimal_frame()):
        assert is_valid(frame, "envelope")
        assert is_read(frame)


@pytest.mark.parametrize(
    "path", ["body", "content-type", "content-encoding", "headers", "properties"]
)
def test_the_service_discards_a_frame_without_a_required_member(path: str) -> None:
    frame = {name: value for name, value in minimal_frame().items() if name != path}
    assert not is_valid(frame, "envelope")
    assert not is_read(frame)


@pytest.mark.parametrize(
    "changes",
    [{"task": "other"}, {"id": ""}, {"id": "x" * 256}, {"id": 7}],
    ids=["task", "empty id", "long id", "number"],
)
def test_the_schema_refuses_wrong_headers(changes: dict[str, Any]) -> None:
    frame = minimal_frame()
    assert not is_valid(frame | {"headers": frame["headers"] | changes}, "envelope")


def test_the_longest_task_id_is_that_of_the_service() -> None:
    assert json_schemas.MAX_ID_LENGTH == message_guard.MAX_ID_LENGTH
    headers = {"task": "valetkey.issue", "id": "x" * message_guard.MAX_ID_LENGTH}
    longest = build_frame(headers=headers)
    assert is_valid(longest, "envelope")
    assert is_read(longest)
