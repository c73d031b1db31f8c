"""The schemas of Celery's envelope and result, and what the service reads."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.builders.frames import build_frame
from worker.broker import message_guard
from worker.broker.message_guard import InvalidMessage, read_frame
from worker.contract import json_schemas
from worker.contract.json_schemas import envelope_schema, result_schema

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def is_valid(frame: Any) -> bool:
    return bool(Draft202012Validator(envelope_schema()).is_valid(frame))


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


@pytest.mark.parametrize("schema", [envelope_schema(), result_schema()], ids=["envelope", "result"])
def test_the_schema_is_a_valid_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


def test_the_frames_of_celery_and_the_smallest_one_are_valid_and_read() -> None:
    for frame in (build_frame(), minimal_frame()):
        assert is_valid(frame)
        assert is_read(frame)


@pytest.mark.parametrize(
    "path",
    ["body", "content-type", "content-encoding", "headers", "properties"],
)
def test_the_service_discards_a_frame_without_a_required_member(path: str) -> None:
    frame = {name: value for name, value in minimal_frame().items() if name != path}
    assert not is_valid(frame)
    assert not is_read(frame)


@pytest.mark.parametrize(
    "changes",
    [{"task": "other"}, {"id": ""}, {"id": "x" * 256}, {"id": 7}],
    ids=["task", "empty id", "long id", "number"],
)
def test_the_schema_refuses_wrong_headers(changes: dict[str, Any]) -> None:
    frame = minimal_frame()
    assert not is_valid(frame | {"headers": frame["headers"] | changes})


def test_the_longest_task_id_is_that_of_the_service() -> None:
    assert json_schemas.MAX_ID_LENGTH == message_guard.MAX_ID_LENGTH
    longest = build_frame(
        headers={"task": "valetkey.issue", "id": "x" * message_guard.MAX_ID_LENGTH}
    )
    assert is_valid(longest)
    assert is_read(longest)
