"""The options of a form, except content type and size."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.test_upload import FILE, FORGED, change_fields, field_misuses, with_field
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
from tests.support.s3.stores import UPLOAD, Store, free_name_profile, new_key
from valetkey.wire.replies import Grant

STORAGE_CLASS: Mapping[str, Any] = {"storage_class": "STANDARD_IA"}
ENCRYPTION: Mapping[str, Any] = {"encryption": {"algorithm": "AES256"}}
TAGS: Mapping[str, Any] = {"tags": {"team": "a b"}}
REDIRECT_URL = "https://app.example/uploaded"
REDIRECT: Mapping[str, Any] = {"success_redirect": REDIRECT_URL}
CONTENT_TYPE_FAMILY: Mapping[str, Any] = {"content_type": "video/*"}
# SeaweedFS refuses every form whose policy contains tags, including valid ones.
ON_SERVERS_WITH_FORM_TAGS = pytest.mark.parametrize("store", MINISTACK, indirect=True)


def form_with_checksum(store: Store, key: str, algorithm: str) -> Grant:
    """Return a form that accepts only one file, by its checksum."""
    (grant,) = store.issue_grants({"key": key, "checksum": checksum(algorithm, FILE)}, **UPLOAD)
    return grant


def form_with_free_name(store: Store, key: str) -> Grant:
    """Return a form whose client chooses the file name in the key's folder."""
    return store.upload(f"{key}.d/${{filename}}", bucket=free_name_profile(store.name))


def request_with_file_name(grant: Grant, name: str) -> Request:
    """Return an upload whose file has this name."""
    return replace(post(grant, FILE), file_name=name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_form_with_a_checksum_of_its_file_is_accepted(store: Store, algorithm: str) -> None:
    key = new_key()
    assert send(post(form_with_checksum(store, key, algorithm), FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


@ON_SERVERS_WITH_FORM_TAGS
def test_a_form_with_tags_is_accepted(store: Store) -> None:
    key = new_key()
    assert send(post(store.upload(key, **TAGS), FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


@pytest.mark.parametrize(
    ("terms", "stored"),
    [
        pytest.param(STORAGE_CLASS, {"StorageClass": "STANDARD_IA"}, id="class"),
        pytest.param(ENCRYPTION, {"ServerSideEncryption": "AES256"}, id="encryption"),
    ],
)
def test_a_form_stores_as_was_granted(
    store: Store, terms: Mapping[str, Any], stored: Mapping[str, str]
) -> None:
    key = new_key()
    assert send(post(store.upload(key, **terms), FILE)).is_success
    assert store.get_object(key).items() >= {"Body": FILE, **stored}.items()


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
    return lambda store, key: post(form_with_checksum(store, key, algorithm), FORGED)


def with_checksum_field(algorithm: str, value: str | None) -> MakeRequest:
    name = f"x-amz-checksum-{algorithm}"
    return lambda store, key: change_fields(
        form_with_checksum(store, key, algorithm), {name: value}
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
    *(misuse for algorithm in ALGORITHMS for misuse in checksum_misuses(algorithm)),
    *field_misuses("storage class", "x-amz-storage-class", "GLACIER", **STORAGE_CLASS),
    # A change to aws:kms would prove nothing: without KMS keys, both servers refuse that anyway.
    Misuse(
        "encryption removed", BOTH, with_field("x-amz-server-side-encryption", None, **ENCRYPTION)
    ),
    *field_misuses("status", "success_action_status", "200", success_status=201),
    *field_misuses("redirect", "success_action_redirect", "https://storage.example/", **REDIRECT),
    Misuse("type outside its family", BOTH, with_content_type("text/html")),
    # AWS checks each type of a list. Browsers take the last one: docs/security.md.
    Misuse("type after one of its family", MINISTACK, with_content_type("video/mp4,text/html")),
    Misuse("type of a family removed", BOTH, with_content_type(None)),
    Misuse("type that begins like its family", BOTH, with_content_type("videos/mp4")),
    Misuse("folder of another tenant", BOTH, with_form_key("umbrella/${filename}")),
    Misuse("folder of the same tenant", BOTH, with_form_key("acme/other/${filename}")),
)
TAG_MISUSES = field_misuses("tags", "tagging", "<Tagging><TagSet/></Tagging>", **TAGS)


@parametrize_misuses(MISUSES)
def test_a_misused_option_of_a_form_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, post(store.upload(key), FILE))


@ON_SERVERS_WITH_FORM_TAGS
@parametrize_misuses(TAG_MISUSES)
def test_a_form_with_other_tags_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, post(store.upload(key, **TAGS), FILE))
