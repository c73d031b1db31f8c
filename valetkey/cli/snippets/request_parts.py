"""Parts of the HTTP request that a client sends to use a grant."""

import json
from base64 import b64decode
from pathlib import PurePosixPath
from typing import Any, get_args

from valetkey.errors import UnusableGrant
from valetkey.wire.replies import Grant, Method

_KNOWN_METHODS = get_args(Method)


def check_method(grant: Grant) -> None:
    """Raise UnusableGrant for a grant of a method that only a later service has."""
    if grant.method not in _KNOWN_METHODS:
        raise UnusableGrant(grant.method)


def headers(grant: Grant) -> dict[str, str]:
    """Return the grant's headers without content-length, which every HTTP client sends itself."""
    return {name: value for name, value in grant.headers.items() if name != "content-length"}


def content_type_prefix(grant: Grant) -> str | None:
    """Return the required prefix of a form's content type ("image/"), if the client chooses it."""
    for condition in _conditions(grant):
        if condition[:2] == ["starts-with", "$Content-Type"]:
            return str(condition[2])
    return None


def size_limits(grant: Grant) -> tuple[int, int | None]:
    """Return the smallest and the largest size in bytes that storage accepts; None is no limit."""
    if "content-length" in grant.headers:
        size = int(grant.headers["content-length"])
        return size, size
    for condition in _conditions(grant):
        if condition[:1] == ["content-length-range"]:
            return int(condition[1]), int(condition[2])
    return 0, None


def _conditions(grant: Grant) -> list[list[Any]]:
    """Return the conditions of a form's policy that are lists; the others are exact values."""
    if "policy" not in grant.fields:
        return []
    conditions = json.loads(b64decode(grant.fields["policy"])).get("conditions", [])
    return [condition for condition in conditions if isinstance(condition, list)]


def file_name(grant: Grant) -> str:
    """Return a local file name: the last segment of the object key, and `.partN` for a part."""
    name = PurePosixPath(grant.key).name
    name = "file" if name in {"", "${filename}"} else name
    return name if grant.part is None else f"{name}.part{grant.part}"
