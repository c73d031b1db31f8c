"""The state of an unfinished upload that something else has changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from valetkey.cli.commands.multipart_command import load_state
from valetkey.cli.row_errors import InputError

_STATE = {
    "request": {},
    "grant_id": "batch.0",
    "expires_at": "2030-01-01T00:00:00Z",
    "size": 5,
    "modified_ns": 0,
    "part_size": 5,
    "parts": {"1": ["etag", "digest"]},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("part_size", 0),
        ("part_size", -1),
        ("part_size", 10**18),
        ("size", -1),
        ("parts", {"0": ["etag", "digest"]}),
        ("parts", {"-1": ["etag", "digest"]}),
        ("parts", {str(10**12): ["etag", "digest"]}),
    ],
)
def test_a_number_that_no_upload_has_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "film.upload.json"
    path.write_text(json.dumps(_STATE), encoding="utf-8")
    assert load_state(path) is not None
    path.write_text(json.dumps(_STATE | {name: value}), encoding="utf-8")
    with pytest.raises(InputError, match="is not the state of an unfinished upload"):
        load_state(path)
