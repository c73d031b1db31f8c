"""What a form may say beside the type and the size of its file."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.test_upload import FILE, FORGED, field
from tests.support.s3.checksums import ALGORITHMS, checksum
from tests.support.s3.http_requests import Request, post, send
from tests.support.s3.misuses import BOTH, MINISTACK, SEAWEEDFS, Misuse, each, prove
from tests.support.s3.stores import UPLOAD, Store, free_named, fresh
from valetkey.wire.messages import Grant

KEPT: Mapping[str, Any] = {"storage_class": "STANDARD_IA"}
ENCRYPTED: Mapping[str, Any] = {"encryption": {"algorithm": "AES256"}}
TAGGED: Mapping[str, Any] = {"tags": {"team": "a b"}}
THERE = "https://app.example/uploaded"
LED: Mapping[str, Any] = {"success_redirect": THERE}
FAMILY: Mapping[str, Any] = {"content_type": "video/*"}
Make = Callable[[Store, str], Request]
# SeaweedFS refuses every form whose policy names tags, a rightful one as well.
where_forms_have_tags = pytest.mark.parametrize("store", MINISTACK, indirect=True)


def checked(store: Store, key: str, algorithm: str) -> Grant:
    """A form for one file alone, by its checksum."""
    (grant,) = store.grants({"key": key, "checksum": checksum(algorithm, FILE)}, **UPLOAD)
    return grant


def freely(store: Store, key: str) -> Grant:
    """A form that leaves the end of its key to the client, in a folder of that name."""
    return store.upload(f"{key}.d/${{filename}}", bucket=free_named(store.name))


def with_field(grant: Grant, name: str, value: str | None, file: bytes = FORGED) -> Request:
    """A form one of whose fields is another; None removes it."""
    sent = {**grant.fields, name: value}
    fields = {name: each for name, each in sent.items() if each is not None}
    return post(replace(grant, fields=fields), file)


def named(grant: Grant, name: str) -> Request:
    """A form with a file that its sender calls by this name."""
    return replace(post(grant, FILE), file_name=name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_form_with_a_checksum_of_its_file_is_accepted(store: Store, algorithm: str) -> None:
    key = fresh()
    assert send(post(checked(store, key, algorithm), FILE)).accepted
    assert store.stored(key)["Body"] == FILE


@where_forms_have_tags
def test_a_form_with_tags_is_accepted(store: Store) -> None:
    key = fresh()
    assert send(post(store.upload(key, **TAGGED), FILE)).accepted
    assert store.stored(key)["Body"] == FILE


def test_a_form_stores_in_the_class_that_was_granted(store: Store) -> None:
    key = fresh()
    assert send(post(store.upload(key, **KEPT), FILE)).accepted
    assert store.stored(key)["StorageClass"] == "STANDARD_IA"


def test_a_form_encrypts_as_was_granted(store: Store) -> None:
    key = fresh()
    assert send(post(store.upload(key, **ENCRYPTED), FILE)).accepted
    stored = store.stored(key)
    assert (stored["Body"], stored["ServerSideEncryption"]) == (FILE, "AES256")


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_form_is_answered_with_the_status_that_was_granted(store: Store, status: int) -> None:
    key = fresh()
    assert send(post(store.upload(key, success_status=status), FILE)).status == status
    assert store.stored(key)["Body"] == FILE


def test_a_form_leads_the_browser_where_it_was_granted(store: Store) -> None:
    key = fresh()
    answer = send(post(store.upload(key, **LED), FILE))
    assert answer.status == 303
    assert answer.headers["location"].startswith(THERE)
    assert store.stored(key)["Body"] == FILE


def test_a_form_leaves_the_client_a_type_of_the_family_that_was_granted(store: Store) -> None:
    key = fresh()
    grant = store.upload(key, **FAMILY)
    assert send(with_field(grant, "Content-Type", "video/webm", FILE)).accepted
    assert store.stored(key)["ContentType"] == "video/webm"


def test_a_form_leaves_the_client_a_name_in_the_folder_that_was_granted(store: Store) -> None:
    key = fresh()
    assert send(named(freely(store, key), "Ferien 1.png")).accepted
    assert store.stored(f"{key}.d/Ferien 1.png")["Body"] == FILE


@pytest.mark.parametrize("name", ["../../umbrella/a.png", "..\\..\\a.png", "/a.png", ".."])
def test_no_name_of_a_file_leaves_the_folder_that_was_granted(store: Store, name: str) -> None:
    key = fresh()
    send(named(freely(store, key), name))
    assert not [found for _, found, _ in store.objects() if not found.startswith(f"{key}.d/")]


def another_file(algorithm: str) -> Make:
    return lambda store, key: post(checked(store, key, algorithm), FORGED)


def checksum_sent(algorithm: str, value: str | None) -> Make:
    name = f"x-amz-checksum-{algorithm}"
    return lambda store, key: with_field(checked(store, key, algorithm), name, value)


def of_the_family(content_type: str | None) -> Make:
    return lambda store, key: with_field(store.upload(key, **FAMILY), "Content-Type", content_type)


def in_place(of: str) -> Make:
    return lambda store, key: with_field(freely(store, key), "key", of)


def on_checksum(algorithm: str) -> tuple[Misuse, ...]:
    other = checksum(algorithm, FORGED)["value"]
    return (
        Misuse(f"file of another {algorithm}", SEAWEEDFS, another_file(algorithm)),
        Misuse(f"{algorithm} changed", BOTH, checksum_sent(algorithm, other)),
        Misuse(f"{algorithm} removed", BOTH, checksum_sent(algorithm, None)),
    )


def on_field(what: str, name: str, other: str, **terms: Any) -> tuple[Misuse, Misuse]:
    """What was granted on these terms is altered, and removed."""
    return (
        Misuse(f"{what} changed", BOTH, field(name, other, **terms)),
        Misuse(f"{what} removed", BOTH, field(name, None, **terms)),
    )


MISUSES = (
    *(misuse for algorithm in ALGORITHMS for misuse in on_checksum(algorithm)),
    *on_field("storage class", "x-amz-storage-class", "GLACIER", **KEPT),
    # Changed to aws:kms it proves nothing: neither server has keys, and both refuse it anyway.
    Misuse("encryption removed", BOTH, field("x-amz-server-side-encryption", None, **ENCRYPTED)),
    *on_field("status", "success_action_status", "200", success_status=201),
    *on_field("redirect", "success_action_redirect", "https://storage.example/", **LED),
    Misuse("type outside its family", BOTH, of_the_family("text/html")),
    Misuse("type of a family removed", BOTH, of_the_family(None)),
    Misuse("type that begins like its family", BOTH, of_the_family("videos/mp4")),
    Misuse("folder of another tenant", BOTH, in_place("umbrella/${filename}")),
    Misuse("folder of the same tenant", BOTH, in_place("acme/other/${filename}")),
)
ON_TAGS = on_field("tags", "tagging", "<Tagging><TagSet/></Tagging>", **TAGGED)


@each(MISUSES)
def test_a_misused_option_of_a_form_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = fresh()
    prove(store, misuse, key, post(store.upload(key), FILE))


@where_forms_have_tags
@each(ON_TAGS)
def test_a_form_with_other_tags_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = fresh()
    prove(store, misuse, key, post(store.upload(key, **TAGGED), FILE))
