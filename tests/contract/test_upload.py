import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.s3.http_requests import Request, post, send
from tests.support.s3.misuses import (
    BOTH,
    MINISTACK,
    SEAWEEDFS,
    MakeRequest,
    Misuse,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.stores import BUCKET, OTHER_BUCKET, UPLOAD, Store, new_key
from valetkey.wire.replies import Grant

FILE = b"\x89PNG a rightful picture"
FORGED = b"\x89PNG a forged picture, if it is stored"
OTHER_KEY = "acme/other.png"


@pytest.mark.parametrize("size", [10, 11, 99, 100, 512_000])
def test_a_form_stores_a_file_of_any_size_that_was_granted(store: Store, size: int) -> None:
    key, file = new_key(), (bytes(range(256)) * 2_000)[:size]
    assert send(post(store.upload(key, max_size=max(size, 100)), file)).is_success
    assert store.get_object(key)["Body"] == file


def test_a_form_stores_an_empty_file_where_that_was_granted(store: Store) -> None:
    key = new_key()
    assert send(post(store.upload(key, min_size=0), b"")).is_success
    assert store.get_object(key)["ContentLength"] == 0


def test_a_form_stores_the_type_the_metadata_and_the_id_of_its_grant(store: Store) -> None:
    key = new_key()
    grant = store.upload(key)
    send(post(grant, FILE))
    stored = store.get_object(key)
    assert stored["ContentType"] == "image/png"
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_form_with_an_acl_that_policy_allows_is_accepted(store: Store) -> None:
    key = new_key()
    grant = store.upload(key, acl="public-read")
    assert grant.fields["acl"] == "public-read"
    assert send(post(grant, FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


def change_fields(grant: Grant, fields: Mapping[str, str | None], file: bytes = FORGED) -> Request:
    """Return an upload with changed fields; None removes a field."""
    values = {**grant.fields, **fields}
    left = {name: value for name, value in values.items() if value is not None}
    return post(replace(grant, fields=left), file)


def with_field(name: str, value: str | None, **terms: Any) -> MakeRequest:
    """Return forms granted on these terms, one field of which is changed; None removes it."""
    return lambda store, key: change_fields(store.upload(key, **terms), {name: value})


def field_misuses(label: str, name: str, other_value: str, **terms: Any) -> tuple[Misuse, Misuse]:
    """Return misuses that change and that remove a field granted on these terms."""
    return (
        Misuse(f"{label} changed", BOTH, with_field(name, other_value, **terms)),
        Misuse(f"{label} removed", BOTH, with_field(name, None, **terms)),
    )


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
        return change_fields(grant, {name: value[:-2] + other + value[-1]})

    return request


def with_larger_limit(store: Store, key: str) -> Request:
    grant = store.upload(key)
    policy = json.loads(b64decode(grant.fields["policy"]))
    policy["conditions"][0] = ["content-length-range", 0, 1_000]
    encoded = b64encode(json.dumps(policy).encode()).decode()
    return change_fields(grant, {"policy": encoded})


def with_added_field(place: int, name: str, value: str) -> MakeRequest:
    """Return forms with one more field at a place; the file is in the last one."""

    def request(store: Store, key: str) -> Request:
        original = post(store.upload(key), FORGED)
        parts = list(original.form)
        parts.insert(place % (len(parts) + 1), (name, value))
        return Request("POST", original.url, form=parts)

    return request


def without_signature_and_policy(store: Store, key: str) -> Request:
    return change_fields(store.upload(key), {"policy": None, "x-amz-signature": None})


def in_other_bucket(store: Store, key: str) -> Request:
    original = post(store.upload(key), FORGED)
    return Request("POST", original.url.replace(BUCKET, OTHER_BUCKET), form=original.form)


def as_put(store: Store, key: str) -> Request:
    grant = store.upload(key)
    return Request("PUT", f"{grant.url}/{key}", headers=grant.fields, body=FORGED)


def signed_with(**overrides: Any) -> MakeRequest:
    """Return forms that the service would not sign."""
    return lambda store, key: post(store.sign(UPLOAD, {"key": key}, **overrides), FORGED)


FIRST, BEFORE_FILE, AFTER_FILE = 0, -2, -1
MISUSES = (
    Misuse("file one byte too large", BOTH, with_file(bytes(101))),
    Misuse("file far too large", BOTH, with_file(bytes(6_000_000))),  # CVE-2020-8162
    Misuse("file one byte too small", BOTH, with_file(bytes(9))),
    Misuse("file empty", BOTH, with_file(b"")),
    Misuse("key of another object", BOTH, with_another_key),
    Misuse("key left to the file's name", BOTH, with_field("key", "acme/${filename}")),
    Misuse("key removed", BOTH, with_field("key", None)),
    Misuse("key added first", SEAWEEDFS, with_added_field(FIRST, "key", OTHER_KEY)),
    Misuse("key added", MINISTACK, with_added_field(BEFORE_FILE, "key", OTHER_KEY)),
    Misuse("key added after the file", MINISTACK, with_added_field(AFTER_FILE, "key", OTHER_KEY)),
    # CVE-2026-126084
    *field_misuses("content type", "Content-Type", "text/html"),
    Misuse("parameter of a content type added", BOTH, with_field("Content-Type", "image/png;a=b")),
    *field_misuses("metadata", "x-amz-meta-origin", "camera 8"),
    Misuse("metadata added", BOTH, with_field("x-amz-meta-content-type", "text/html")),
    Misuse(
        "metadata added after the file",
        BOTH,
        with_added_field(AFTER_FILE, "x-amz-meta-owner", "me"),
    ),
    Misuse("grant id changed", BOTH, with_tampered_field("x-amz-meta-grant-id")),
    Misuse("grant id removed", BOTH, with_field("x-amz-meta-grant-id", None)),
    *field_misuses("acl", "acl", "public-read-write", acl="public-read"),
    *(
        Misuse(f"{name} added", BOTH, with_field(name, value))
        for name, value in {
            "x-amz-storage-class": "GLACIER",
            "x-amz-server-side-encryption": "AES256",
            "x-amz-website-redirect-location": "/",
        }.items()
    ),
    *(
        Misuse(f"{name} added", MINISTACK, with_field(name, value))
        for name, value in {
            "acl": "public-read",
            "bucket": OTHER_BUCKET,  # CVE-2023-43040
            "tagging": "<Tagging><TagSet/></Tagging>",
            "success_action_redirect": "http://storage.example/",
            "success_action_status": "201",
            "Content-Disposition": "inline",
            "Cache-Control": "max-age=31536000",
            "foo": "bar",
        }.items()
    ),
    Misuse("policy with a larger limit", BOTH, with_larger_limit),
    Misuse("policy tampered", BOTH, with_tampered_field("policy")),
    Misuse("signature tampered", BOTH, with_tampered_field("x-amz-signature")),
    *(
        Misuse(f"{name} removed", BOTH, with_field(name, None))
        for name in ("policy", "x-amz-signature", "x-amz-credential")
    ),
    Misuse("signature and policy removed", BOTH, without_signature_and_policy),
    *field_misuses("algorithm", "x-amz-algorithm", "AWS4-HMAC-SHA1"),
    *field_misuses("date", "x-amz-date", "20990101T000000Z"),
    Misuse("posted to another bucket", BOTH, in_other_bucket),  # CVE-2023-28434
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
