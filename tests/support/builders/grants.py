"""Grants of each kind as the service returns them, and text that is hard to quote."""

import json
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from valetkey.wire.replies import Grant, MultipartInfo

URL = "https://inbox.example.test/a/../b?a=1&b=[2]&c={d,e}"
ODD = """it's "50%"; a=b,<x>@&amp;ü$(id)`id`\\${y}"""
BREAKING_OUT = "\"'</script><!--<script>--><script>alert(1)</script>&lt;\u2028`${alert(1)}`\\"


def grant(key: str = "a/cat.jpg", **fields: Any) -> Grant:
    """Return a grant for a GET request, with these fields changed."""
    defaults: dict[str, Any] = {
        "id": "0199.0",
        "key": key,
        "method": "GET",
        "url": URL,
        "expires_at": datetime(2026, 11, 24, 12, tzinfo=UTC),
        "limited_by": "request",
    }
    return Grant(**defaults | fields)


def form(key: str = "a/cat.jpg", type_prefix: str | None = None, **fields: str) -> Grant:
    """Return a form; with type_prefix, the client chooses a content type that begins with it."""
    conditions = [["content-length-range", 0, 5], {"acl": "private"}]
    if type_prefix is not None:
        conditions.append(["starts-with", "$Content-Type", type_prefix])
    policy = b64encode(json.dumps({"conditions": conditions}).encode()).decode()
    url = fields.pop("url", URL)
    return grant(key, method="POST", url=url, fields={"key": key, **fields, "policy": policy})


def put(key: str = "a/cat.jpg", size: int = 5, **fields: Any) -> Grant:
    """Return a PUT of `size` bytes, with these headers or else a content type."""
    headers = fields.pop("headers", {"content-type": "image/jpeg"})
    return grant(key, method="PUT", headers={**headers, "content-length": str(size)}, **fields)


def multipart(key: str = "a/cat.jpg") -> Grant:
    """Return a grant that completes a multipart upload of two parts."""
    info = MultipartInfo(upload_id="u", part_size=5, part_count=2, abort_url=f"{URL}&abort")
    return grant(key, method="POST", multipart=info)
