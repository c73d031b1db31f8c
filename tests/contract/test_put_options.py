"""The options of a PUT, except content type and size."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.contract.test_put import FILE, FORGED, with_headers
from tests.support.s3.checksums import ALGORITHMS, checksum
from tests.support.s3.http_requests import Request, put, send
from tests.support.s3.misuses import BOTH, Misuse, check_misuse, parametrize_misuses
from tests.support.s3.stores import BUCKET, Store, new_key

TAGS = {"team": "a b", "kept": "7 years"}
STORAGE_CLASS: Mapping[str, Any] = {"storage_class": "STANDARD_IA"}
ENCRYPTION: Mapping[str, Any] = {"encryption": {"algorithm": "AES256"}}
CRCS = [algorithm for algorithm in ALGORITHMS if algorithm != "sha256"]


@pytest.mark.parametrize("algorithm", CRCS)
def test_a_put_with_a_checksum_of_its_file_is_accepted(store: Store, algorithm: str) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), checksum(algorithm, FILE)), FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


def test_a_put_stores_the_tags_that_were_granted(store: Store) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), tags=TAGS), FILE)).is_success
    tags = store.client.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
    assert {each["Key"]: each["Value"] for each in tags} == TAGS


def test_a_put_stores_in_the_class_that_was_granted(store: Store) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), **STORAGE_CLASS), FILE)).is_success
    assert store.get_object(key)["StorageClass"] == "STANDARD_IA"


def test_a_put_encrypts_as_was_granted(store: Store) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), **ENCRYPTION), FILE)).is_success
    stored = store.get_object(key)
    assert (stored["Body"], stored["ServerSideEncryption"]) == (FILE, "AES256")


def with_another_file(algorithm: str) -> Callable[[Store, str], Request]:
    return lambda store, key: put(store.put(key, len(FILE), checksum(algorithm, FILE)), FORGED)


def with_checksum_header(algorithm: str, value: str | None) -> Callable[[Store, str], Request]:
    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FILE), checksum(algorithm, FILE))
        header_values = {**grant.headers, f"x-amz-checksum-{algorithm}": value}
        headers = {name: each for name, each in header_values.items() if each is not None}
        return Request("PUT", grant.url, headers, FORGED)

    return request


def checksum_misuses(algorithm: str) -> tuple[Misuse, ...]:
    other_value = checksum(algorithm, FORGED)["value"]
    return (
        Misuse(f"file of another {algorithm}", BOTH, with_another_file(algorithm)),
        Misuse(f"{algorithm} changed", BOTH, with_checksum_header(algorithm, other_value)),
        Misuse(f"{algorithm} removed", BOTH, with_checksum_header(algorithm, None)),
    )


def header_misuses(label: str, name: str, other_value: str, **terms: Any) -> tuple[Misuse, Misuse]:
    """Return misuses that change and that remove a header granted on these terms."""
    return (
        Misuse(f"{label} changed", BOTH, with_headers({name: other_value}, **terms)),
        Misuse(f"{label} removed", BOTH, with_headers({name: None}, **terms)),
    )


MISUSES = (
    *(misuse for algorithm in CRCS for misuse in checksum_misuses(algorithm)),
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
def test_a_misused_option_of_a_put_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, put(store.put(key, len(FILE)), FILE))
