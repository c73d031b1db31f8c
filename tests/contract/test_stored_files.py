"""Files that forms and PUTs store, as they were granted."""

from typing import Any

import pytest

from tests.support.s3.checksums import ALGORITHMS, checksum
from tests.support.s3.http_requests import post, put, send
from tests.support.s3.stores import Checksum, Store, new_key
from valetkey.wire.replies import Grant

FILE = b"\x89PNG a rightful picture"
KINDS = pytest.mark.parametrize("kind", ["upload", "put"])


def store_file(
    store: Store, kind: str, file: bytes, checksum: Checksum = None, **terms: Any
) -> Grant:
    """Store a file by a new grant of a kind, and check its content; return the grant."""
    key = new_key()
    if kind == "put":
        grant = store.put(key, len(file), checksum, **terms)
        assert send(put(grant, file)).is_success
    else:
        grant = store.upload(key, checksum, **terms)
        assert send(post(grant, file)).is_success
    assert store.get_object(key)["Body"] == file
    return grant


@pytest.mark.parametrize(
    ("kind", "size"),
    [("upload", size) for size in (0, 10, 11, 99, 100, 512_000)]
    + [("put", size) for size in (0, 1, 100, 512_000)],
)
def test_a_file_of_a_size_that_was_granted_is_stored(store: Store, kind: str, size: int) -> None:
    minimum: dict[str, Any] = {"min_size": min(size, 10)} if kind == "upload" else {}
    file = (bytes(range(256)) * 2_000)[:size]
    store_file(store, kind, file, max_size=max(size, 100), **minimum)


@KINDS
def test_the_type_the_metadata_and_the_id_of_the_grant_are_stored(store: Store, kind: str) -> None:
    grant = store_file(store, kind, FILE)
    stored = store.get_object(grant.key)
    assert stored["ContentType"] == "image/png"
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


@KINDS
def test_an_acl_that_policy_allows_is_accepted(store: Store, kind: str) -> None:
    grant = store_file(store, kind, FILE, acl="public-read")
    assert "public-read" in (grant.fields.get("acl"), grant.headers.get("x-amz-acl"))


@KINDS
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_of_the_file_is_accepted(store: Store, kind: str, algorithm: str) -> None:
    store_file(store, kind, FILE, checksum(algorithm, FILE))


@KINDS
@pytest.mark.parametrize(
    ("terms", "stored"),
    [
        ({"storage_class": "STANDARD_IA"}, {"StorageClass": "STANDARD_IA"}),
        ({"encryption": {"algorithm": "AES256"}}, {"ServerSideEncryption": "AES256"}),
    ],
    ids=["class", "encryption"],
)
def test_a_file_is_stored_as_was_granted(
    store: Store, kind: str, terms: dict[str, Any], stored: dict[str, str]
) -> None:
    grant = store_file(store, kind, FILE, **terms)
    assert store.get_object(grant.key).items() >= stored.items()
