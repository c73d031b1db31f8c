from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.support.s3.checksums import ALGORITHMS, checksum
from tests.support.s3.http_requests import Request, get, put, send
from tests.support.s3.misuses import (
    BOTH,
    SEAWEEDFS,
    MakeRequest,
    Misuse,
    change_request,
    check_misuse,
    parametrize_misuses,
    replace_parameter,
    url_misuses,
)
from tests.support.s3.stores import BUCKET, OTHER_BUCKET, PUT, Store, new_key

FILE = b"\x89PNG a rightful picture"
FORGED = b"\x89PNG a forgery, as long"[: len(FILE)].ljust(len(FILE))


def with_headers(changes: Mapping[str, str | None], **terms: Any) -> MakeRequest:
    """Return PUTs granted on these terms, whose headers are changed; None removes a header."""

    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FORGED), **terms)
        changed = {**grant.headers, **changes}
        headers = {name: value for name, value in changed.items() if value is not None}
        return Request("PUT", grant.url, headers, FORGED)

    return request


def header_misuses(label: str, name: str, other_value: str, **terms: Any) -> tuple[Misuse, Misuse]:
    """Return misuses that change and that remove a header granted on these terms."""
    return (
        Misuse(f"{label} changed", BOTH, with_headers({name: other_value}, **terms)),
        Misuse(f"{label} removed", BOTH, with_headers({name: None}, **terms)),
    )


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


def with_method(method: str) -> MakeRequest:
    return lambda store, key: Request(method, store.put(key, 0).url)


def for_another_key(store: Store, key: str) -> Request:
    grant = store.put(key, len(FORGED))
    return put(replace(grant, url=grant.url.replace(key, new_key())), FORGED)


def in_other_bucket(store: Store, key: str) -> Request:
    grant = store.put(key, len(FORGED))
    url = grant.url.replace(f"/{BUCKET}/", f"/{OTHER_BUCKET}/")
    return put(replace(grant, url=url), FORGED)


def signed_with(**overrides: Any) -> MakeRequest:
    """Return PUTs that the service would not sign."""

    def request(store: Store, key: str) -> Request:
        return put(store.sign(PUT, {"key": key, "size": len(FORGED)}, **overrides), FORGED)

    return request


TAGS = {"team": "a b", "kept": "7 years"}
STORAGE_CLASS: Mapping[str, Any] = {"storage_class": "STANDARD_IA"}
ENCRYPTION: Mapping[str, Any] = {"encryption": {"algorithm": "AES256"}}


def test_a_put_stores_the_tags_that_were_granted(store: Store) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), tags=TAGS), FILE)).is_success
    tags = store.client.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
    assert {each["Key"]: each["Value"] for each in tags} == TAGS


def test_a_download_overrides_headers_that_the_holder_of_a_put_added(store: Store) -> None:
    key = new_key()
    grant = store.put(key, len(FILE))
    added = {
        "content-encoding": "gzip",
        "content-disposition": "inline",
        "cache-control": "public, max-age=31536000",
    }
    assert send(Request("PUT", grant.url, grant.headers | added, FILE)).is_success
    stored = store.get_object(key)
    assert (stored["ContentEncoding"], stored["ContentDisposition"]) == ("gzip", "inline")
    link = store.download(key, content_encoding="identity", cache_control="no-store")
    response = send(get(link.url))
    assert response.body == FILE
    assert response.headers["content-encoding"] == "identity"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-disposition"].startswith("attachment")


def with_another_file(algorithm: str) -> Callable[[Store, str], Request]:
    return lambda store, key: put(store.put(key, len(FILE), checksum(algorithm, FILE)), FORGED)


def checksum_misuses(algorithm: str) -> Iterator[Misuse]:
    granted, name = checksum(algorithm, FILE), f"x-amz-checksum-{algorithm}"
    yield Misuse(f"file of another {algorithm}", BOTH, with_another_file(algorithm))
    other_value = checksum(algorithm, FORGED)["value"]
    yield from header_misuses(algorithm, name, other_value, checksum=granted)


MISUSES = (
    Misuse("file one byte too large", BOTH, with_file(FILE + b"!")),
    Misuse("file far too large", BOTH, with_file(bytes(6_000_000))),
    Misuse("file one byte too small", BOTH, with_file(FILE[:-1])),
    Misuse("file empty", BOTH, with_file(b"")),
    Misuse("file of no length, in chunks", BOTH, in_chunked_encoding),
    *header_misuses("content type", "content-type", "text/html"),
    *header_misuses("metadata", "x-amz-meta-origin", "camera 8"),
    Misuse("metadata added", SEAWEEDFS, with_headers({"x-amz-meta-owner": "me"})),
    *header_misuses("grant id of the object", "x-amz-meta-grant-id", "mine"),
    *header_misuses("overwriting", "if-none-match", '"a"', overwrite=False),
    Misuse("acl added", SEAWEEDFS, with_headers({"x-amz-acl": "public-read"})),
    *header_misuses("acl", "x-amz-acl", "private", acl="public-read"),
    Misuse("storage class added", SEAWEEDFS, with_headers({"x-amz-storage-class": "GLACIER"})),
    Misuse("tags added", SEAWEEDFS, with_headers({"x-amz-tagging": "a=b"})),
    Misuse("key of another object", BOTH, for_another_key),
    Misuse("bucket of another object", BOTH, in_other_bucket),
    Misuse(
        "fewer headers signed",
        BOTH,
        change_request(with_headers({}), replace_parameter("X-Amz-SignedHeaders", "host")),
    ),
    Misuse("used for GET", BOTH, with_method("GET")),
    Misuse("used for DELETE", BOTH, with_method("DELETE")),
    Misuse("used for POST", BOTH, with_method("POST")),
    *url_misuses(with_headers({}), signed_with),
    *(misuse for algorithm in ALGORITHMS for misuse in checksum_misuses(algorithm)),
    *header_misuses("tags", "x-amz-tagging", "team=c", tags=TAGS),
    *header_misuses("storage class", "x-amz-storage-class", "GLACIER", **STORAGE_CLASS),
    # A change to aws:kms would prove nothing: without KMS keys, both servers refuse that anyway.
    Misuse(
        "encryption removed",
        BOTH,
        with_headers({"x-amz-server-side-encryption": None}, **ENCRYPTION),
    ),
)


@parametrize_misuses(MISUSES)
def test_a_misused_put_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, put(store.put(key, len(FILE)), FILE))
