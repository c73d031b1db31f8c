"""Uses grants at storage, as the clients of a producer do."""

import gzip
import hashlib
import json
from typing import Any

from pydantic import TypeAdapter

from tests.support.compatibility.services import BUCKET, Servers
from tests.support.s3 import http_requests
from valetkey import Grant, multipart_storage

CONTENT = b"x" * 20
_GRANT: TypeAdapter[Grant] = TypeAdapter(Grant)


def use_grant(kind: str, values: dict[str, Any], servers: Servers) -> None:
    """Use a grant, and check that it reads or stores the object; a multipart is aborted."""
    grant = _GRANT.validate_python(values)
    match kind:
        case "download":
            servers.s3.put_object(Bucket=BUCKET, Key=grant.key, Body=CONTENT)
            assert http_requests.send(http_requests.get(grant.url)).body == CONTENT
        case "upload":
            assert http_requests.send(http_requests.post(grant, CONTENT)).is_success
            assert_stored(grant.key, servers)
        case "put":
            assert http_requests.send(http_requests.put(grant, CONTENT)).is_success
            assert_stored(grant.key, servers)
        case "multipart":
            assert grant.multipart is not None
            multipart_storage.abort_upload(grant.multipart.abort_url)


def store_parts(upload: dict[str, Any], parts: list[dict[str, Any]], servers: Servers) -> None:
    """Send the only part of a multipart upload, and complete it."""
    grant, (part,) = _GRANT.validate_python(upload), map(_GRANT.validate_python, parts)
    response = http_requests.send(http_requests.put(part, CONTENT))
    multipart_storage.complete_upload(grant.url, {part.part or 0: response.headers["etag"]})
    assert_stored(grant.key, servers)


def assert_stored(key: str, servers: Servers) -> None:
    """Check that storage has the object."""
    assert servers.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == CONTENT


def read_manifest(manifest: dict[str, Any], url: str) -> list[dict[str, Any]]:
    """Return the lines of a manifest, after checking its size and digest."""
    content = http_requests.send(http_requests.get(url)).body
    assert (len(content), hashlib.sha256(content).hexdigest()) == (
        manifest["bytes"],
        manifest["sha256"],
    )
    return [json.loads(line) for line in gzip.decompress(content).splitlines()]
