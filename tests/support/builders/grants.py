"""Grants of each kind as the service writes them, with what is hard to quote in them."""

import json
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from valetkey.wire.messages import Grant, MultipartInfo

URL = "https://inbox.example.test/a/../b?a=1&b=[2]&c={d,e}"
ODD = """it's "50%"; a=b,<x>@&amp;ü$(id)`id`\\${y}"""
BREAKING_OUT = "\"'</script><!--<script>--><script>alert(1)</script>&lt;\u2028`${alert(1)}`\\"


def grant(key: str = "a/cat.jpg", **said: Any) -> Grant:
    """A grant to read, whatever else is said of it."""
    common: dict[str, Any] = {
        "id": "0199.0",
        "key": key,
        "method": "GET",
        "url": URL,
        "expires_at": datetime(2026, 11, 24, 12, tzinfo=UTC),
        "limited_by": "request",
    }
    return Grant(**common | said)


def form(key: str = "a/cat.jpg", family: str | None = None, **fields: str) -> Grant:
    """A form, whose client chooses a content type of the family where one is given."""
    conditions = [["content-length-range", 0, 5], {"acl": "private"}]
    if family is not None:
        conditions.append(["starts-with", "$Content-Type", family])
    policy = b64encode(json.dumps({"conditions": conditions}).encode()).decode()
    return grant(key, method="POST", fields={"key": key, **fields, "policy": policy})


def put(key: str = "a/cat.jpg", size: int = 5, **said: Any) -> Grant:
    """A PUT of so many bytes; its other headers are those given, or a content type."""
    headers = said.pop("headers", {"content-type": "image/jpeg"})
    return grant(key, method="PUT", headers={**headers, "content-length": str(size)}, **said)


def multipart(key: str = "a/cat.jpg") -> Grant:
    """A multipart upload, begun."""
    begun = MultipartInfo(upload_id="u", part_size=5, part_count=2, abort_url=f"{URL}&abort")
    return grant(key, method="POST", multipart=begun)
