import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.s3.http_requests import Request, post, send
from tests.support.s3.misuses import BOTH, MINISTACK, SEAWEEDFS, Misuse, each, prove
from tests.support.s3.stores import BUCKET, OTHER_BUCKET, UPLOAD, Store, fresh
from valetkey.wire.messages import Grant

FILE = b"\x89PNG a rightful picture"
FORGED = b"\x89PNG a forged picture, if it is stored"


@pytest.mark.parametrize("size", [10, 11, 99, 100])
def test_a_form_stores_a_file_of_any_size_that_was_granted(store: Store, size: int) -> None:
    key, file = fresh(), bytes(size)
    assert send(post(store.upload(key), file)).accepted
    assert store.stored(key)["Body"] == file


def test_a_form_stores_an_empty_file_where_that_was_granted(store: Store) -> None:
    key = fresh()
    assert send(post(store.upload(key, min_size=0), b"")).accepted
    assert store.stored(key)["ContentLength"] == 0


def test_a_form_stores_a_large_file_byte_for_byte(store: Store) -> None:
    key, file = fresh(), bytes(range(256)) * 2_000
    assert send(post(store.upload(key, max_size=512_000), file)).accepted
    assert store.stored(key)["Body"] == file


def test_a_form_stores_the_content_type_that_was_granted(store: Store) -> None:
    key = fresh()
    send(post(store.upload(key), FILE))
    assert store.stored(key)["ContentType"] == "image/png"


def test_a_form_stores_metadata_and_the_id_of_its_grant(store: Store) -> None:
    key = fresh()
    grant = store.upload(key)
    send(post(grant, FILE))
    assert store.stored(key)["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_form_with_an_acl_that_policy_allows_is_accepted(store: Store) -> None:
    key = fresh()
    grant = store.upload(key, acl="public-read")
    assert grant.fields["acl"] == "public-read"
    assert send(post(grant, FILE)).accepted
    assert store.stored(key)["Body"] == FILE


def test_a_form_replaces_what_is_stored_under_its_key(store: Store) -> None:
    key = fresh()
    store.store(key, b"what was there before")
    assert send(post(store.upload(key), FILE)).accepted
    assert store.stored(key)["Body"] == FILE


Make = Callable[[Store, str], Request]


def form(grant: Grant, fields: Mapping[str, str]) -> Request:
    return post(replace(grant, fields=dict(fields)), FORGED)


def altered(**terms: Any) -> Callable[..., Make]:
    """Forms granted on these terms, whose fields are changed: None removes one."""

    def change(fields: Mapping[str, str | None]) -> Make:
        def request(store: Store, key: str) -> Request:
            grant = store.upload(key, **terms)
            sent = {**grant.fields, **fields}
            return form(grant, {name: value for name, value in sent.items() if value is not None})

        return request

    return change


def field(name: str, value: str | None, **terms: Any) -> Make:
    return altered(**terms)({name: value})


def holding(file: bytes) -> Make:
    return lambda store, key: post(store.upload(key), file)


def under_another_key(store: Store, key: str) -> Request:
    return field("key", f"{key}.other")(store, key)


def tampered(name: str) -> Make:
    """The last character but one of a field, which padding cannot hide, is another."""

    def request(store: Store, key: str) -> Request:
        grant = store.upload(key)
        value = grant.fields[name]
        other = "0" if value[-2] != "0" else "1"
        return form(grant, {**grant.fields, name: value[:-2] + other + value[-1]})

    return request


def with_a_larger_limit(store: Store, key: str) -> Request:
    grant = store.upload(key)
    policy = json.loads(b64decode(grant.fields["policy"]))
    policy["conditions"][0] = ["content-length-range", 0, 1_000]
    written = b64encode(json.dumps(policy).encode()).decode()
    return form(grant, {**grant.fields, "policy": written})


def twice(name: str, value: str, *, first: bool) -> Make:
    def request(store: Store, key: str) -> Request:
        made = post(store.upload(key), FORGED)
        parts = (
            [(name, value), *made.form]
            if first
            else [*made.form[:-1], (name, value), made.form[-1]]
        )
        return Request("POST", made.url, form=parts)

    return request


def after_the_file(name: str, value: str) -> Make:
    def request(store: Store, key: str) -> Request:
        made = post(store.upload(key), FORGED)
        return Request("POST", made.url, form=[*made.form, (name, value)])

    return request


def at_the_other_bucket(store: Store, key: str) -> Request:
    made = post(store.upload(key), FORGED)
    return Request("POST", made.url.replace(BUCKET, OTHER_BUCKET), form=made.form)


def put(store: Store, key: str) -> Request:
    grant = store.upload(key)
    return Request("PUT", f"{grant.url}/{key}", headers=grant.fields, body=FORGED)


def signed(**wrong: Any) -> Make:
    """A form that no Issuer would give."""
    return lambda store, key: post(store.sign(UPLOAD, {"key": key}, **wrong), FORGED)


MISUSES = (
    Misuse("file one byte too large", BOTH, holding(bytes(101))),
    Misuse("file far too large", BOTH, holding(bytes(6_000_000))),
    Misuse("file one byte too small", BOTH, holding(bytes(9))),
    Misuse("file empty", BOTH, holding(b"")),
    Misuse("key of another object", BOTH, under_another_key),
    Misuse("key left to the file's name", BOTH, field("key", "acme/${filename}")),
    Misuse("key removed", BOTH, field("key", None)),
    Misuse("key doubled, other first", SEAWEEDFS, twice("key", "acme/other.png", first=True)),
    Misuse("key doubled, other last", MINISTACK, twice("key", "acme/other.png", first=False)),
    Misuse("metadata changed", BOTH, field("x-amz-meta-origin", "camera 8")),
    Misuse("metadata removed", BOTH, field("x-amz-meta-origin", None)),
    Misuse("metadata added", BOTH, field("x-amz-meta-owner", "me")),
    Misuse("grant id changed", BOTH, tampered("x-amz-meta-grant-id")),
    Misuse("grant id removed", BOTH, field("x-amz-meta-grant-id", None)),
    Misuse("acl added", MINISTACK, field("acl", "public-read")),
    Misuse("acl changed", BOTH, field("acl", "public-read-write", acl="public-read")),
    Misuse("acl removed", BOTH, field("acl", None, acl="public-read")),
    Misuse("storage class added", BOTH, field("x-amz-storage-class", "GLACIER")),
    Misuse("encryption added", BOTH, field("x-amz-server-side-encryption", "AES256")),
    Misuse("website redirect added", BOTH, field("x-amz-website-redirect-location", "/")),
    Misuse("tags added", MINISTACK, field("tagging", "<Tagging><TagSet/></Tagging>")),
    Misuse(
        "redirect added", MINISTACK, field("success_action_redirect", "http://storage.example/")
    ),
    Misuse("status added", MINISTACK, field("success_action_status", "201")),
    Misuse("disposition added", MINISTACK, field("Content-Disposition", "inline")),
    Misuse("cache control added", MINISTACK, field("Cache-Control", "max-age=31536000")),
    Misuse("unknown field added", MINISTACK, field("foo", "bar")),
    Misuse("policy with a larger limit", BOTH, with_a_larger_limit),
    Misuse("policy tampered", BOTH, tampered("policy")),
    Misuse("policy removed", BOTH, field("policy", None)),
    Misuse("signature tampered", BOTH, tampered("x-amz-signature")),
    Misuse("signature removed", BOTH, field("x-amz-signature", None)),
    Misuse(
        "signature and policy removed", BOTH, altered()({"policy": None, "x-amz-signature": None})
    ),
    Misuse("credential removed", BOTH, field("x-amz-credential", None)),
    Misuse("algorithm removed", BOTH, field("x-amz-algorithm", None)),
    Misuse("algorithm changed", BOTH, field("x-amz-algorithm", "AWS4-HMAC-SHA1")),
    Misuse("date removed", BOTH, field("x-amz-date", None)),
    Misuse("date changed", BOTH, field("x-amz-date", "20990101T000000Z")),
    Misuse("metadata added after the file", BOTH, after_the_file("x-amz-meta-owner", "me")),
    Misuse("key added after the file", MINISTACK, after_the_file("key", "acme/other.png")),
    Misuse("posted to another bucket", BOTH, at_the_other_bucket),
    Misuse("sent as PUT", BOTH, put),
    Misuse("expired", BOTH, signed(issued=timedelta(seconds=-61), expires_in=60)),
    Misuse("signed with a wrong secret", BOTH, signed(secret_key="wrong")),
    Misuse("signed with an unknown key", BOTH, signed(access_key="AKIDUNKNOWN")),
    Misuse("signed with a made-up session", MINISTACK, signed(token="made up")),
    Misuse("signed for another region", MINISTACK, signed(region="eu-west-1")),
    Misuse("signed for another bucket", BOTH, signed(bucket=OTHER_BUCKET)),
)


@each(MISUSES)
def test_a_misused_form_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = fresh()
    prove(store, misuse, key, post(store.upload(key), FILE))
