from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from tests.support.s3.http_requests import Request, put, send
from tests.support.s3.misuses import (
    BOTH,
    MINISTACK,
    SEAWEEDFS,
    SECRET,
    Misuse,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.queries import (
    QueryChange,
    append_parameters,
    change_query,
    prepend_parameters,
    remove_parameters,
    replace_parameter,
    tamper_parameter,
)
from tests.support.s3.stores import BUCKET, OTHER_BUCKET, PUT, Store, new_key

FILE = b"\x89PNG a rightful picture"
FORGED = b"\x89PNG a forgery, as long"[: len(FILE)].ljust(len(FILE))


def sha256_checksum(file: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": b64encode(sha256(file).digest()).decode()}


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_put_stores_a_file_of_the_size_that_was_granted(store: Store, size: int) -> None:
    key, file = new_key(), bytes(size)
    assert send(put(store.put(key, size), file)).is_success
    assert store.get_object(key)["Body"] == file


def test_a_put_stores_a_large_file_byte_for_byte(store: Store) -> None:
    key, file = new_key(), bytes(range(256)) * 2_000
    assert send(put(store.put(key, len(file), max_size=512_000), file)).is_success
    assert store.get_object(key)["Body"] == file


def test_a_put_stores_the_type_the_metadata_and_the_id_of_its_grant(store: Store) -> None:
    key = new_key()
    grant = store.put(key, len(FILE))
    assert send(put(grant, FILE)).is_success
    stored = store.get_object(key)
    assert stored["ContentType"] == "image/png"
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_put_with_the_checksum_of_its_file_is_accepted(store: Store) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), sha256_checksum(FILE)), FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


def test_a_put_with_an_acl_that_policy_allows_is_accepted(store: Store) -> None:
    key = new_key()
    grant = store.put(key, len(FILE), acl="public-read")
    assert grant.headers["x-amz-acl"] == "public-read"
    assert send(put(grant, FILE)).is_success


def test_a_put_that_may_overwrite_does(store: Store) -> None:
    key = new_key()
    store.put_object(key, b"what was there before")
    assert send(put(store.put(key, len(FILE)), FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


def test_a_second_put_without_overwrite_is_refused(store: Store) -> None:
    key = new_key()
    grant = store.put(key, len(FILE), overwrite=False)
    assert send(put(grant, FILE)).is_success
    assert send(put(grant, FORGED)).status == 412
    assert store.get_object(key)["Body"] == FILE


MakeRequest = Callable[[Store, str], Request]


def with_query_change(change: QueryChange) -> MakeRequest:
    """Return PUTs whose query is changed."""

    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FORGED))
        return Request("PUT", change_query(grant.url, change), grant.headers, FORGED)

    return request


def with_headers(changes: Mapping[str, str | None], **terms: Any) -> MakeRequest:
    """Return PUTs granted on these terms, whose headers are changed; None removes a header."""

    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FORGED), **terms)
        changed = {**grant.headers, **changes}
        headers = {name: value for name, value in changed.items() if value is not None}
        return Request("PUT", grant.url, headers, FORGED)

    return request


def with_file(file: bytes) -> MakeRequest:
    """Return PUTs of a file with its own Content-Length instead of the granted one."""

    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FILE))
        headers = {**grant.headers, "content-length": str(len(file))}
        return Request("PUT", grant.url, headers, file)

    return request


def in_chunked_encoding(store: Store, key: str) -> Request:
    grant = store.put(key, len(FORGED))
    headers = {name: value for name, value in grant.headers.items() if name != "content-length"}
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(FORGED), FORGED)
    return Request("PUT", grant.url, headers | {"transfer-encoding": "chunked"}, chunk)


def with_another_file(store: Store, key: str) -> Request:
    return put(store.put(key, len(FILE), sha256_checksum(FILE)), FORGED)


def with_another_checksum(store: Store, key: str) -> Request:
    grant = store.put(key, len(FILE), sha256_checksum(FILE))
    headers = {**grant.headers, "x-amz-checksum-sha256": sha256_checksum(FORGED)["value"]}
    return Request("PUT", grant.url, headers, FORGED)


def without_checksum(store: Store, key: str) -> Request:
    grant = store.put(key, len(FILE), sha256_checksum(FILE))
    headers = {name: value for name, value in grant.headers.items() if "checksum" not in name}
    return Request("PUT", grant.url, headers, FORGED)


def with_method(method: str) -> MakeRequest:
    return lambda store, key: Request(method, store.put(key, 0).url)


def for_another_key(store: Store, key: str) -> Request:
    grant = store.put(key, len(FORGED))
    return Request("PUT", grant.url.replace(key, new_key()), grant.headers, FORGED)


def in_other_bucket(store: Store, key: str) -> Request:
    grant = store.put(key, len(FORGED))
    url = grant.url.replace(f"/{BUCKET}/", f"/{OTHER_BUCKET}/")
    return Request("PUT", url, grant.headers, FORGED)


def copy_of_another_object(store: Store, key: str) -> Request:
    """Copy an object for which there is no grant."""
    secret = new_key()
    store.put_object(secret, SECRET)
    return with_headers({"x-amz-copy-source": f"/{BUCKET}/{secret}"})(store, key)


def signed_with(**overrides: Any) -> MakeRequest:
    """Return PUTs that the service would not sign."""

    def request(store: Store, key: str) -> Request:
        return put(store.sign(PUT, {"key": key, "size": len(FORGED)}, **overrides), FORGED)

    return request


MISUSES = (
    Misuse("file one byte too large", BOTH, with_file(FILE + b"!")),
    Misuse("file far too large", BOTH, with_file(bytes(6_000_000))),
    Misuse("file one byte too small", BOTH, with_file(FILE[:-1])),
    Misuse("file empty", BOTH, with_file(b"")),
    Misuse("file of no length, in chunks", BOTH, in_chunked_encoding),
    Misuse("file of another checksum", BOTH, with_another_file),
    Misuse("checksum changed", BOTH, with_another_checksum),
    Misuse("checksum removed", BOTH, without_checksum),
    Misuse("content type changed", BOTH, with_headers({"content-type": "text/html"})),
    Misuse("content type removed", BOTH, with_headers({"content-type": None})),
    Misuse("metadata changed", BOTH, with_headers({"x-amz-meta-origin": "camera 8"})),
    Misuse("metadata removed", BOTH, with_headers({"x-amz-meta-origin": None})),
    Misuse("metadata added", SEAWEEDFS, with_headers({"x-amz-meta-owner": "me"})),
    Misuse("grant id of the object changed", BOTH, with_headers({"x-amz-meta-grant-id": "mine"})),
    Misuse("grant id of the object removed", BOTH, with_headers({"x-amz-meta-grant-id": None})),
    Misuse("grant id changed", BOTH, with_query_change(tamper_parameter("x-grant-id"))),
    Misuse("grant id removed", BOTH, with_query_change(remove_parameters("x-grant-id"))),
    Misuse("grant id doubled", BOTH, with_query_change(append_parameters("x-grant-id=mine"))),
    Misuse(
        "overwriting all the same", BOTH, with_headers({"if-none-match": None}, overwrite=False)
    ),
    Misuse(
        "overwriting another version", BOTH, with_headers({"if-none-match": '"a"'}, overwrite=False)
    ),
    Misuse("acl added", SEAWEEDFS, with_headers({"x-amz-acl": "public-read"})),
    Misuse("acl changed", BOTH, with_headers({"x-amz-acl": "private"}, acl="public-read")),
    Misuse("acl removed", BOTH, with_headers({"x-amz-acl": None}, acl="public-read")),
    Misuse("storage class added", SEAWEEDFS, with_headers({"x-amz-storage-class": "GLACIER"})),
    Misuse("tags added", SEAWEEDFS, with_headers({"x-amz-tagging": "a=b"})),
    Misuse("another object copied", SEAWEEDFS, copy_of_another_object),
    Misuse("key of another object", BOTH, for_another_key),
    Misuse("bucket of another object", BOTH, in_other_bucket),
    Misuse("signature tampered", BOTH, with_query_change(tamper_parameter("X-Amz-Signature"))),
    Misuse("signature removed", SEAWEEDFS, with_query_change(remove_parameters("X-Amz-Signature"))),
    Misuse("all parameters removed", BOTH, with_query_change(lambda _: [])),
    Misuse("life prolonged", BOTH, with_query_change(replace_parameter("X-Amz-Expires", "86400"))),
    Misuse(
        "life doubled, longer last",
        BOTH,
        with_query_change(append_parameters("X-Amz-Expires=86400")),
    ),
    Misuse(
        "life doubled, longer first",
        BOTH,
        with_query_change(prepend_parameters("X-Amz-Expires=86400")),
    ),
    Misuse(
        "fewer headers signed",
        BOTH,
        with_query_change(replace_parameter("X-Amz-SignedHeaders", "host")),
    ),
    Misuse("parameter added", BOTH, with_query_change(append_parameters("foo=bar"))),
    Misuse("access list set", BOTH, with_query_change(prepend_parameters("acl"))),
    Misuse("tags set", BOTH, with_query_change(prepend_parameters("tagging"))),
    Misuse("used for GET", BOTH, with_method("GET")),
    Misuse("used for DELETE", BOTH, with_method("DELETE")),
    Misuse("used for POST", BOTH, with_method("POST")),
    Misuse("expired", BOTH, signed_with(issued=timedelta(seconds=-61), expires_in=60)),
    Misuse("not yet valid", MINISTACK, signed_with(issued=timedelta(hours=2))),
    Misuse("signed for over seven days", BOTH, signed_with(expires_in=604_801)),
    Misuse("signed with a wrong secret", BOTH, signed_with(secret_key="wrong")),
    Misuse("signed with an unknown key", BOTH, signed_with(access_key="AKIDUNKNOWN")),
    Misuse("signed with a made-up session", BOTH, signed_with(token="made up")),
    Misuse("signed for another region", MINISTACK, signed_with(region="eu-west-1")),
)


@parametrize_misuses(MISUSES)
def test_a_misused_put_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, put(store.put(key, len(FILE)), FILE))
