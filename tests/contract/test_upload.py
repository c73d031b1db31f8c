import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.s3.http_requests import Request, post, send
from tests.support.s3.misuses import (
    BOTH,
    MINISTACK,
    SEAWEEDFS,
    Misuse,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.stores import BUCKET, OTHER_BUCKET, UPLOAD, Store, new_key
from valetkey.wire.replies import Grant

FILE = b"\x89PNG a rightful picture"
FORGED = b"\x89PNG a forged picture, if it is stored"


@pytest.mark.parametrize("size", [10, 11, 99, 100])
def test_a_form_stores_a_file_of_any_size_that_was_granted(store: Store, size: int) -> None:
    key, file = new_key(), bytes(size)
    assert send(post(store.upload(key), file)).is_success
    assert store.get_object(key)["Body"] == file


def test_a_form_stores_an_empty_file_where_that_was_granted(store: Store) -> None:
    key = new_key()
    assert send(post(store.upload(key, min_size=0), b"")).is_success
    assert store.get_object(key)["ContentLength"] == 0


def test_a_form_stores_a_large_file_byte_for_byte(store: Store) -> None:
    key, file = new_key(), bytes(range(256)) * 2_000
    assert send(post(store.upload(key, max_size=512_000), file)).is_success
    assert store.get_object(key)["Body"] == file


def test_a_form_stores_the_content_type_that_was_granted(store: Store) -> None:
    key = new_key()
    send(post(store.upload(key), FILE))
    assert store.get_object(key)["ContentType"] == "image/png"


def test_a_form_stores_metadata_and_the_id_of_its_grant(store: Store) -> None:
    key = new_key()
    grant = store.upload(key)
    send(post(grant, FILE))
    assert store.get_object(key)["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_form_with_an_acl_that_policy_allows_is_accepted(store: Store) -> None:
    key = new_key()
    grant = store.upload(key, acl="public-read")
    assert grant.fields["acl"] == "public-read"
    assert send(post(grant, FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


def test_a_form_replaces_what_is_stored_under_its_key(store: Store) -> None:
    key = new_key()
    store.put_object(key, b"what was there before")
    assert send(post(store.upload(key), FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


MakeRequest = Callable[[Store, str], Request]


def form_request(grant: Grant, fields: Mapping[str, str]) -> Request:
    return post(replace(grant, fields=dict(fields)), FORGED)


def with_fields(**terms: Any) -> Callable[..., MakeRequest]:
    """Return forms granted on these terms, whose fields are changed; None removes a field."""

    def make_request(fields: Mapping[str, str | None]) -> MakeRequest:
        def request(store: Store, key: str) -> Request:
            grant = store.upload(key, **terms)
            values = {**grant.fields, **fields}
            return form_request(
                grant, {name: value for name, value in values.items() if value is not None}
            )

        return request

    return make_request


def with_field(name: str, value: str | None, **terms: Any) -> MakeRequest:
    return with_fields(**terms)({name: value})


def with_file(file: bytes) -> MakeRequest:
    return lambda store, key: post(store.upload(key), file)


def with_another_key(store: Store, key: str) -> Request:
    return with_field("key", f"{key}.other")(store, key)


def with_tampered_field(name: str) -> MakeRequest:
    """Return forms with a change in a field's second last character, which is not padding."""

    def request(store: Store, key: str) -> Request:
        grant = store.upload(key)
        value = grant.fields[name]
        other = "0" if value[-2] != "0" else "1"
        return form_request(grant, {**grant.fields, name: value[:-2] + other + value[-1]})

    return request


def with_larger_limit(store: Store, key: str) -> Request:
    grant = store.upload(key)
    policy = json.loads(b64decode(grant.fields["policy"]))
    policy["conditions"][0] = ["content-length-range", 0, 1_000]
    encoded = b64encode(json.dumps(policy).encode()).decode()
    return form_request(grant, {**grant.fields, "policy": encoded})


def with_doubled_field(name: str, value: str, *, first: bool) -> MakeRequest:
    def request(store: Store, key: str) -> Request:
        original = post(store.upload(key), FORGED)
        parts = (
            [(name, value), *original.form]
            if first
            else [*original.form[:-1], (name, value), original.form[-1]]
        )
        return Request("POST", original.url, form=parts)

    return request


def with_field_after_file(name: str, value: str) -> MakeRequest:
    def request(store: Store, key: str) -> Request:
        original = post(store.upload(key), FORGED)
        return Request("POST", original.url, form=[*original.form, (name, value)])

    return request


def in_other_bucket(store: Store, key: str) -> Request:
    original = post(store.upload(key), FORGED)
    return Request("POST", original.url.replace(BUCKET, OTHER_BUCKET), form=original.form)


def as_put(store: Store, key: str) -> Request:
    grant = store.upload(key)
    return Request("PUT", f"{grant.url}/{key}", headers=grant.fields, body=FORGED)


def signed_with(**overrides: Any) -> MakeRequest:
    """Return forms that the service would not sign."""
    return lambda store, key: post(store.sign(UPLOAD, {"key": key}, **overrides), FORGED)


MISUSES = (
    Misuse("file one byte too large", BOTH, with_file(bytes(101))),
    Misuse("file far too large", BOTH, with_file(bytes(6_000_000))),
    Misuse("file one byte too small", BOTH, with_file(bytes(9))),
    Misuse("file empty", BOTH, with_file(b"")),
    Misuse("key of another object", BOTH, with_another_key),
    Misuse("key left to the file's name", BOTH, with_field("key", "acme/${filename}")),
    Misuse("key removed", BOTH, with_field("key", None)),
    Misuse(
        "key doubled, other first",
        SEAWEEDFS,
        with_doubled_field("key", "acme/other.png", first=True),
    ),
    Misuse(
        "key doubled, other last",
        MINISTACK,
        with_doubled_field("key", "acme/other.png", first=False),
    ),
    Misuse("metadata changed", BOTH, with_field("x-amz-meta-origin", "camera 8")),
    Misuse("metadata removed", BOTH, with_field("x-amz-meta-origin", None)),
    Misuse("metadata added", BOTH, with_field("x-amz-meta-owner", "me")),
    Misuse("grant id changed", BOTH, with_tampered_field("x-amz-meta-grant-id")),
    Misuse("grant id removed", BOTH, with_field("x-amz-meta-grant-id", None)),
    Misuse("acl added", MINISTACK, with_field("acl", "public-read")),
    Misuse("acl changed", BOTH, with_field("acl", "public-read-write", acl="public-read")),
    Misuse("acl removed", BOTH, with_field("acl", None, acl="public-read")),
    Misuse("storage class added", BOTH, with_field("x-amz-storage-class", "GLACIER")),
    Misuse("encryption added", BOTH, with_field("x-amz-server-side-encryption", "AES256")),
    Misuse("website redirect added", BOTH, with_field("x-amz-website-redirect-location", "/")),
    Misuse("tags added", MINISTACK, with_field("tagging", "<Tagging><TagSet/></Tagging>")),
    Misuse(
        "redirect added",
        MINISTACK,
        with_field("success_action_redirect", "http://storage.example/"),
    ),
    Misuse("status added", MINISTACK, with_field("success_action_status", "201")),
    Misuse("disposition added", MINISTACK, with_field("Content-Disposition", "inline")),
    Misuse("cache control added", MINISTACK, with_field("Cache-Control", "max-age=31536000")),
    Misuse("unknown field added", MINISTACK, with_field("foo", "bar")),
    Misuse("policy with a larger limit", BOTH, with_larger_limit),
    Misuse("policy tampered", BOTH, with_tampered_field("policy")),
    Misuse("policy removed", BOTH, with_field("policy", None)),
    Misuse("signature tampered", BOTH, with_tampered_field("x-amz-signature")),
    Misuse("signature removed", BOTH, with_field("x-amz-signature", None)),
    Misuse(
        "signature and policy removed",
        BOTH,
        with_fields()({"policy": None, "x-amz-signature": None}),
    ),
    Misuse("credential removed", BOTH, with_field("x-amz-credential", None)),
    Misuse("algorithm removed", BOTH, with_field("x-amz-algorithm", None)),
    Misuse("algorithm changed", BOTH, with_field("x-amz-algorithm", "AWS4-HMAC-SHA1")),
    Misuse("date removed", BOTH, with_field("x-amz-date", None)),
    Misuse("date changed", BOTH, with_field("x-amz-date", "20990101T000000Z")),
    Misuse("metadata added after the file", BOTH, with_field_after_file("x-amz-meta-owner", "me")),
    Misuse("key added after the file", MINISTACK, with_field_after_file("key", "acme/other.png")),
    Misuse("posted to another bucket", BOTH, in_other_bucket),
    Misuse("sent as PUT", BOTH, as_put),
    Misuse("expired", BOTH, signed_with(issued=timedelta(seconds=-61), expires_in=60)),
    Misuse("signed with a wrong secret", BOTH, signed_with(secret_key="wrong")),
    Misuse("signed with an unknown key", BOTH, signed_with(access_key="AKIDUNKNOWN")),
    Misuse("signed with a made-up session", MINISTACK, signed_with(token="made up")),
    Misuse("signed for another region", MINISTACK, signed_with(region="eu-west-1")),
    Misuse("signed for another bucket", BOTH, signed_with(bucket=OTHER_BUCKET)),
)


@parametrize_misuses(MISUSES)
def test_a_misused_form_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, post(store.upload(key), FILE))
