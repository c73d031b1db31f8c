from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from tests.support.s3.http_requests import Request, put, send
from tests.support.s3.misuses import BOTH, MINISTACK, SEAWEEDFS, SECRET, Misuse, each, prove
from tests.support.s3.queries import Change, added, changed, flipped, preceded, replaced, without
from tests.support.s3.stores import BUCKET, OTHER_BUCKET, PUT, Store, fresh

FILE = b"\x89PNG a rightful picture"
FORGED = b"\x89PNG a forgery, as long"[: len(FILE)].ljust(len(FILE))


def digest(file: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": b64encode(sha256(file).digest()).decode()}


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_put_stores_a_file_of_the_size_that_was_granted(store: Store, size: int) -> None:
    key, file = fresh(), bytes(size)
    assert send(put(store.put(key, size), file)).accepted
    assert store.stored(key)["Body"] == file


def test_a_put_stores_a_large_file_byte_for_byte(store: Store) -> None:
    key, file = fresh(), bytes(range(256)) * 2_000
    assert send(put(store.put(key, len(file), max_size=512_000), file)).accepted
    assert store.stored(key)["Body"] == file


def test_a_put_stores_the_type_the_metadata_and_the_id_of_its_grant(store: Store) -> None:
    key = fresh()
    grant = store.put(key, len(FILE))
    assert send(put(grant, FILE)).accepted
    stored = store.stored(key)
    assert stored["ContentType"] == "image/png"
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_put_with_the_checksum_of_its_file_is_accepted(store: Store) -> None:
    key = fresh()
    assert send(put(store.put(key, len(FILE), digest(FILE)), FILE)).accepted
    assert store.stored(key)["Body"] == FILE


def test_a_put_with_an_acl_that_policy_allows_is_accepted(store: Store) -> None:
    key = fresh()
    grant = store.put(key, len(FILE), acl="public-read")
    assert grant.headers["x-amz-acl"] == "public-read"
    assert send(put(grant, FILE)).accepted


def test_a_put_that_may_overwrite_does(store: Store) -> None:
    key = fresh()
    store.store(key, b"what was there before")
    assert send(put(store.put(key, len(FILE)), FILE)).accepted
    assert store.stored(key)["Body"] == FILE


def test_a_second_put_without_overwrite_is_refused(store: Store) -> None:
    key = fresh()
    grant = store.put(key, len(FILE), overwrite=False)
    assert send(put(grant, FILE)).accepted
    assert send(put(grant, FORGED)).status == 412
    assert store.stored(key)["Body"] == FILE


Make = Callable[[Store, str], Request]


def altered(change: Change) -> Make:
    """A PUT whose query is changed."""

    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FORGED))
        return Request("PUT", changed(grant.url, change), grant.headers, FORGED)

    return request


def headers(changes: Mapping[str, str | None], **terms: Any) -> Make:
    """A PUT granted on these terms, whose headers are changed: None leaves one out."""

    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FORGED), **terms)
        sent = {**grant.headers, **changes}
        given = {name: value for name, value in sent.items() if value is not None}
        return Request("PUT", grant.url, given, FORGED)

    return request


def holding(file: bytes) -> Make:
    """A PUT that says its own length: it can only be another than the granted."""

    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FILE))
        sent = {**grant.headers, "content-length": str(len(file))}
        return Request("PUT", grant.url, sent, file)

    return request


def in_chunks(store: Store, key: str) -> Request:
    grant = store.put(key, len(FORGED))
    sent = {name: value for name, value in grant.headers.items() if name != "content-length"}
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(FORGED), FORGED)
    return Request("PUT", grant.url, sent | {"transfer-encoding": "chunked"}, chunk)


def another_file(store: Store, key: str) -> Request:
    return put(store.put(key, len(FILE), digest(FILE)), FORGED)


def another_checksum(store: Store, key: str) -> Request:
    grant = store.put(key, len(FILE), digest(FILE))
    sent = {**grant.headers, "x-amz-checksum-sha256": digest(FORGED)["value"]}
    return Request("PUT", grant.url, sent, FORGED)


def no_checksum(store: Store, key: str) -> Request:
    grant = store.put(key, len(FILE), digest(FILE))
    sent = {name: value for name, value in grant.headers.items() if "checksum" not in name}
    return Request("PUT", grant.url, sent, FORGED)


def by(method: str) -> Make:
    return lambda store, key: Request(method, store.put(key, 0).url)


def elsewhere(store: Store, key: str) -> Request:
    grant = store.put(key, len(FORGED))
    return Request("PUT", grant.url.replace(key, fresh()), grant.headers, FORGED)


def in_the_other_bucket(store: Store, key: str) -> Request:
    grant = store.put(key, len(FORGED))
    url = grant.url.replace(f"/{BUCKET}/", f"/{OTHER_BUCKET}/")
    return Request("PUT", url, grant.headers, FORGED)


def copied(store: Store, key: str) -> Request:
    """Copies what no link was given for, where a link may be given."""
    secret = fresh()
    store.store(secret, SECRET)
    return headers({"x-amz-copy-source": f"/{BUCKET}/{secret}"})(store, key)


def signed(**wrong: Any) -> Make:
    """A PUT that no Issuer would give."""

    def request(store: Store, key: str) -> Request:
        return put(store.sign(PUT, {"key": key, "size": len(FORGED)}, **wrong), FORGED)

    return request


MISUSES = (
    Misuse("file one byte too large", BOTH, holding(FILE + b"!")),
    Misuse("file far too large", BOTH, holding(bytes(6_000_000))),
    Misuse("file one byte too small", BOTH, holding(FILE[:-1])),
    Misuse("file empty", BOTH, holding(b"")),
    Misuse("file of no length, in chunks", BOTH, in_chunks),
    Misuse("file of another checksum", BOTH, another_file),
    Misuse("checksum changed", BOTH, another_checksum),
    Misuse("checksum removed", BOTH, no_checksum),
    Misuse("content type changed", BOTH, headers({"content-type": "text/html"})),
    Misuse("content type removed", BOTH, headers({"content-type": None})),
    Misuse("metadata changed", BOTH, headers({"x-amz-meta-origin": "camera 8"})),
    Misuse("metadata removed", BOTH, headers({"x-amz-meta-origin": None})),
    Misuse("metadata added", SEAWEEDFS, headers({"x-amz-meta-owner": "me"})),
    Misuse("grant id of the object changed", BOTH, headers({"x-amz-meta-grant-id": "mine"})),
    Misuse("grant id of the object removed", BOTH, headers({"x-amz-meta-grant-id": None})),
    Misuse("grant id changed", BOTH, altered(flipped("x-grant-id"))),
    Misuse("grant id removed", BOTH, altered(without("x-grant-id"))),
    Misuse("grant id doubled", BOTH, altered(added("x-grant-id=mine"))),
    Misuse("overwriting all the same", BOTH, headers({"if-none-match": None}, overwrite=False)),
    Misuse("overwriting another version", BOTH, headers({"if-none-match": '"a"'}, overwrite=False)),
    Misuse("acl added", SEAWEEDFS, headers({"x-amz-acl": "public-read"})),
    Misuse("acl changed", BOTH, headers({"x-amz-acl": "private"}, acl="public-read")),
    Misuse("acl removed", BOTH, headers({"x-amz-acl": None}, acl="public-read")),
    Misuse("storage class added", SEAWEEDFS, headers({"x-amz-storage-class": "GLACIER"})),
    Misuse("tags added", SEAWEEDFS, headers({"x-amz-tagging": "a=b"})),
    Misuse("another object copied", SEAWEEDFS, copied),
    Misuse("key of another object", BOTH, elsewhere),
    Misuse("bucket of another object", BOTH, in_the_other_bucket),
    Misuse("signature tampered", BOTH, altered(flipped("X-Amz-Signature"))),
    Misuse("signature removed", SEAWEEDFS, altered(without("X-Amz-Signature"))),
    Misuse("all parameters removed", BOTH, altered(lambda _: [])),
    Misuse("life prolonged", BOTH, altered(replaced("X-Amz-Expires", "86400"))),
    Misuse("life doubled, longer last", BOTH, altered(added("X-Amz-Expires=86400"))),
    Misuse("life doubled, longer first", BOTH, altered(preceded("X-Amz-Expires=86400"))),
    Misuse("fewer headers signed", BOTH, altered(replaced("X-Amz-SignedHeaders", "host"))),
    Misuse("parameter added", BOTH, altered(added("foo=bar"))),
    Misuse("access list set", BOTH, altered(preceded("acl"))),
    Misuse("tags set", BOTH, altered(preceded("tagging"))),
    Misuse("used for GET", BOTH, by("GET")),
    Misuse("used for DELETE", BOTH, by("DELETE")),
    Misuse("used for POST", BOTH, by("POST")),
    Misuse("expired", BOTH, signed(issued=timedelta(seconds=-61), expires_in=60)),
    Misuse("not yet valid", MINISTACK, signed(issued=timedelta(hours=2))),
    Misuse("signed for over seven days", BOTH, signed(expires_in=604_801)),
    Misuse("signed with a wrong secret", BOTH, signed(secret_key="wrong")),
    Misuse("signed with an unknown key", BOTH, signed(access_key="AKIDUNKNOWN")),
    Misuse("signed with a made-up session", BOTH, signed(token="made up")),
    Misuse("signed for another region", MINISTACK, signed(region="eu-west-1")),
)


@each(MISUSES)
def test_a_misused_put_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = fresh()
    prove(store, misuse, key, put(store.put(key, len(FILE)), FILE))
