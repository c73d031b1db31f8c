"""Grants of every kind as somebody pastes them, and what `audit whose` prints of them."""

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result

from tests.support.builders.messages import (
    download_message,
    grant_message,
    put_message,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import json_lines

PART_SIZE = 5 * 1024**2
Whose = Callable[..., Result]
KINDS = ("download", "plain", "upload", "put", "multipart", "parts")


def verdicts(result: Result) -> list[str]:
    return [row["verdict"] for row in json_lines(result)]


def values(result: Result) -> dict[str, Any]:
    (row,) = json_lines(result)
    return row


def multipart_message() -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 2 * PART_SIZE}
    request = grant_message(["acme/film.mp4"], grant=terms | {"part_size": PART_SIZE})
    return request | {"items": [{"key": "acme/film.mp4", "size": PART_SIZE + 1}]}


def parts_message(grant: dict[str, Any]) -> dict[str, Any]:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": grant["id"]}
    items = [{"key": grant["key"], "part": number} for number in (1, 2)]
    return grant_message([grant["key"]] * 2, grant=terms) | {"items": items}


def request(service: InProcessService, kind: str) -> dict[str, Any]:
    """Return a message of a kind. Where batches have several items, the second one is refused."""
    keys = ["acme/a.png", "acme/../b", "acme/b c.png"]
    match kind:
        case "plain":
            return grant_message(keys, grant=download_message(plain=True)["grant"])
        case "upload":
            return upload_message(keys)
        case "put":
            return put_message(dict.fromkeys(keys, 11))
        case "multipart":
            return multipart_message()
        case "parts":
            return parts_message(issue(service, "multipart"))
    return grant_message(keys)


def issue(service: InProcessService, kind: str) -> dict[str, Any]:
    """Return the last grant of a message of a kind."""
    grant: dict[str, Any] = service.issue(request(service, kind))["items"][-1]
    assert "url" in grant, grant
    return grant


def pasted(grant: dict[str, Any]) -> str:
    return json.dumps(grant["fields"]) if "fields" in grant else str(grant["url"])
