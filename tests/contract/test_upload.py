import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.s3.checksums import ALGORITHMS, checksum
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
from tests.support.s3.stores import BUCKET, OTHER_BUCKET, UPLOAD, Store, free_name_profile, new_key
from valetkey.wire.replies import Grant

FILE = b"\x89PNG a rightful picture"
FORGED = b"\x89PNG a forged picture, if it is stored"
OTHER_KEY = "acme/other.png"


UNSIGNED = {"policy": None, "x-amz-signature": None}


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


STORAGE_CLASS: Mapping[str, Any] = {"storage_class": "STANDARD_IA"}
ENCRYPTION: Mapping[str, Any] = {"encryption": {"algorithm": "AES256"}}
TAGS: Mapping[str, Any] = {"tags": {"team": "a b"}}
REDIRECT_URL = "https://app.example/uploaded"
REDIRECT: Mapping[str, Any] = {"success_redirect": REDIRECT_URL}
CONTENT_TYPE_FAMILY: Mapping[str, Any] = {"content_type": "video/*"}
# SeaweedFS refuses every form whose policy contains tags, including valid ones.
ON_SERVERS_WITH_FORM_TAGS = pytest.mark.parametrize("store", MINISTACK, indirect=True)


def form_with_free_name(store: Store, key: str) -> Grant:
    """Return a form whose client chooses the file name in the key's folder."""
    return store.upload(f"{key}.d/${{filename}}", bucket=free_name_profile(store.name))


def request_with_file_name(grant: Grant, name: str) -> Request:
    """Return an upload whose file has this name."""
    return replace(post(grant, FILE), file_name=name)


@ON_SERVERS_WITH_FORM_TAGS
def test_a_form_with_tags_is_accepted(store: Store) -> None:
    key = new_key()
    assert send(post(store.upload(key, **TAGS), FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_form_is_answered_with_the_status_that_was_granted(store: Store, status: int) -> None:
    key = new_key()
    assert send(post(store.upload(key, success_status=status), FILE)).status == status
    assert store.get_object(key)["Body"] == FILE


def test_a_form_leads_the_browser_where_it_was_granted(store: Store) -> None:
    key = new_key()
    response = send(post(store.upload(key, **REDIRECT), FILE))
    assert response.status == 303
    assert response.headers["location"].startswith(REDIRECT_URL)
    assert store.get_object(key)["Body"] == FILE


@pytest.mark.parametrize("store", MINISTACK, indirect=True)
@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({"metadata": {"name": "${filename}"}}, "metadata_invalid"),
        ({"success_redirect": f"{REDIRECT_URL}/${{filename}}"}, "redirect_not_allowed"),
    ],
)
def test_a_form_with_a_variable_that_storage_would_replace_and_then_refuse_is_not_issued(
    store: Store, terms: Mapping[str, Any], code: str
) -> None:
    key = new_key()
    assert store.refusal_code(key, **{**UPLOAD, **terms}) == code
    assert send(post(store.sign({**UPLOAD, **terms}, {"key": key}), FILE)).status == 403


def test_a_form_leaves_the_client_a_type_of_the_family_that_was_granted(store: Store) -> None:
    key = new_key()
    grant = store.upload(key, **CONTENT_TYPE_FAMILY)
    assert send(change_fields(grant, {"Content-Type": "video/webm"}, FILE)).is_success
    assert store.get_object(key)["ContentType"] == "video/webm"


def test_a_form_leaves_the_client_a_name_in_the_folder_that_was_granted(store: Store) -> None:
    key = new_key()
    assert send(request_with_file_name(form_with_free_name(store, key), "Ferien 1.png")).is_success
    assert store.get_object(f"{key}.d/Ferien 1.png")["Body"] == FILE


@pytest.mark.parametrize("name", ["../../umbrella/a.png", "..\\..\\a.png", "/a.png", ".."])
def test_no_name_of_a_file_leaves_the_folder_that_was_granted(store: Store, name: str) -> None:
    key = new_key()
    send(request_with_file_name(form_with_free_name(store, key), name))
    assert not [
        stored_key for _, stored_key, _ in store.objects() if not stored_key.startswith(f"{key}.d/")
    ]


def with_another_file(algorithm: str) -> MakeRequest:
    return lambda store, key: post(store.upload(key, checksum(algorithm, FILE)), FORGED)


def with_checksum_field(algorithm: str, value: str | None) -> MakeRequest:
    name = f"x-amz-checksum-{algorithm}"
    return lambda store, key: change_fields(
        store.upload(key, checksum(algorithm, FILE)), {name: value}
    )


def with_content_type(content_type: str | None) -> MakeRequest:
    return with_field("Content-Type", content_type, **CONTENT_TYPE_FAMILY)


def with_form_key(form_key: str) -> MakeRequest:
    return lambda store, key: change_fields(form_with_free_name(store, key), {"key": form_key})


def checksum_misuses(algorithm: str) -> tuple[Misuse, ...]:
    other_value = checksum(algorithm, FORGED)["value"]
    return (
        Misuse(f"file of another {algorithm}", SEAWEEDFS, with_another_file(algorithm)),
        Misuse(f"{algorithm} changed", BOTH, with_checksum_field(algorithm, other_value)),
        Misuse(f"{algorithm} removed", BOTH, with_checksum_field(algorithm, None)),
    )


MISUSES = (
    Misuse("file one byte too large", BOTH, with_file(bytes(101))),
    Misuse("file far too large", BOTH, with_file(bytes(6_000_000))),  # CVE-2020-8162
    Misuse("file one byte too small", BOTH, with_file(bytes(9))),
    Misuse("file empty", BOTH, with_file(b"")),
    Misuse("key of another object", BOTH, with_field("key", OTHER_KEY)),
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
    Misuse(
        "signature and policy removed", BOTH, lambda s, key: change_fields(s.upload(key), UNSIGNED)
    ),
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
    *(misuse for algorithm in ALGORITHMS for misuse in checksum_misuses(algorithm)),
    *field_misuses("storage class", "x-amz-storage-class", "GLACIER", **STORAGE_CLASS),
    # A change to aws:kms would prove nothing: without KMS keys, both servers refuse that anyway.
    Misuse(
        "encryption removed", BOTH, with_field("x-amz-server-side-encryption", None, **ENCRYPTION)
    ),
    *field_misuses("status", "success_action_status", "200", success_status=201),
    *field_misuses("redirect", "success_action_redirect", "https://storage.example/", **REDIRECT),
    Misuse("type outside its family", BOTH, with_content_type("text/html")),
    # AWS checks each type of a list. Browsers take the last one: docs/files.md.
    Misuse("type after one of its family", MINISTACK, with_content_type("video/mp4,text/html")),
    Misuse("type of a family removed", BOTH, with_content_type(None)),
    Misuse("type that begins like its family", BOTH, with_content_type("videos/mp4")),
    Misuse("folder of another tenant", BOTH, with_form_key("umbrella/${filename}")),
    Misuse("folder of the same tenant", BOTH, with_form_key("acme/other/${filename}")),
)
TAG_MISUSES = field_misuses("tags", "tagging", "<Tagging><TagSet/></Tagging>", **TAGS)


@parametrize_misuses(MISUSES)
def test_a_misused_form_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, post(store.upload(key), FILE))


@ON_SERVERS_WITH_FORM_TAGS
@parametrize_misuses(TAG_MISUSES)
def test_a_form_with_other_tags_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, post(store.upload(key, **TAGS), FILE))
