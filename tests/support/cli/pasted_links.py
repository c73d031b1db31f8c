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

PART_SIZE = 5 * 1024**2
Whose = Callable[..., Result]
KINDS = ("download", "plain", "upload", "put", "multipart", "parts")


def verdicts(result: Result) -> list[str]:
    return [json.loads(line)["verdict"] for line in result.stdout.splitlines()]


def values(result: Result) -> dict[str, Any]:
    (line,) = result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def multipart_message() -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 2 * PART_SIZE}
    request = grant_message(["acme/film.mp4"], grant=terms | {"part_size": PART_SIZE})
    return request | {"items": [{"key": "acme/film.mp4", "size": PART_SIZE + 1}]}


def parts_message(grant: dict[str, Any]) -> dict[str, Any]:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": grant["id"]}
    items = [{"key": grant["key"], "part": number} for number in (1, 2)]
    return grant_message([grant["key"]] * 2, grant=terms) | {"items": items}


def issue(service: InProcessService, kind: str) -> dict[str, Any]:
    """Return a grant of a kind; not the first of its batch, where batches have several."""
    messages: dict[str, Callable[[], dict[str, Any]]] = {
        "download": lambda: grant_message(["acme/a.pdf", "acme/b c.pdf"]),
        "plain": lambda: grant_message(
            ["acme/a.pdf", "acme/b.pdf"], grant=download_message(plain=True)["grant"]
        ),
        "upload": lambda: upload_message(["acme/a.png", "acme/b c.png"]),
        "put": lambda: put_message({"acme/a.png": 10, "acme/b.png": 11}),
        "multipart": multipart_message,
        "parts": lambda: parts_message(issue(service, "multipart")),
    }
    grant: dict[str, Any] = service.issue(messages[kind]())["items"][-1]
    assert "url" in grant, grant
    return grant


def pasted(grant: dict[str, Any]) -> str:
    return json.dumps(grant["fields"]) if "fields" in grant else str(grant["url"])
