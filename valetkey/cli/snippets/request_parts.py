"""What a client sends to use a grant."""

import json
from base64 import b64decode
from pathlib import PurePosixPath

from valetkey.wire.messages import Grant


def headers(grant: Grant) -> dict[str, str]:
    """The headers to add; every HTTP client sends content-length by itself."""
    return {name: value for name, value in grant.headers.items() if name != "content-length"}


def content_type_prefix(grant: Grant) -> str | None:
    """What a form's content type must begin with ("image/"), where the client chooses it."""
    if "policy" not in grant.fields:
        return None
    for condition in json.loads(b64decode(grant.fields["policy"])).get("conditions", []):
        if isinstance(condition, list) and condition[:2] == ["starts-with", "$Content-Type"]:
            return str(condition[2])
    return None


def file_name(grant: Grant) -> str:
    """What the file is called on the client's side: the key's last name, and the part's number."""
    last = PurePosixPath(grant.key).name
    last = "file" if last in {"", "${filename}"} else last
    return last if grant.part is None else f"{last}.part{grant.part}"
