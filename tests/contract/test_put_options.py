"""What a PUT may say beside the type and the size of its file."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.contract.test_put import FILE, FORGED, headers
from tests.support.s3.checksums import ALGORITHMS, checksum
from tests.support.s3.http_requests import Request, put, send
from tests.support.s3.misuses import BOTH, Misuse, each, prove
from tests.support.s3.stores import BUCKET, Store, fresh

TAGS = {"team": "a b", "kept": "7 years"}
KEPT: Mapping[str, Any] = {"storage_class": "STANDARD_IA"}
ENCRYPTED: Mapping[str, Any] = {"encryption": {"algorithm": "AES256"}}
CRCS = [algorithm for algorithm in ALGORITHMS if algorithm != "sha256"]


@pytest.mark.parametrize("algorithm", CRCS)
def test_a_put_with_a_checksum_of_its_file_is_accepted(store: Store, algorithm: str) -> None:
    key = fresh()
    assert send(put(store.put(key, len(FILE), checksum(algorithm, FILE)), FILE)).accepted
    assert store.stored(key)["Body"] == FILE


def test_a_put_stores_the_tags_that_were_granted(store: Store) -> None:
    key = fresh()
    assert send(put(store.put(key, len(FILE), tags=TAGS), FILE)).accepted
    found = store.client.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
    assert {each["Key"]: each["Value"] for each in found} == TAGS


def test_a_put_stores_in_the_class_that_was_granted(store: Store) -> None:
    key = fresh()
    assert send(put(store.put(key, len(FILE), **KEPT), FILE)).accepted
    assert store.stored(key)["StorageClass"] == "STANDARD_IA"


def test_a_put_encrypts_as_was_granted(store: Store) -> None:
    key = fresh()
    assert send(put(store.put(key, len(FILE), **ENCRYPTED), FILE)).accepted
    stored = store.stored(key)
    assert (stored["Body"], stored["ServerSideEncryption"]) == (FILE, "AES256")


def another_file(algorithm: str) -> Callable[[Store, str], Request]:
    return lambda store, key: put(store.put(key, len(FILE), checksum(algorithm, FILE)), FORGED)


def checksum_sent(algorithm: str, value: str | None) -> Callable[[Store, str], Request]:
    def request(store: Store, key: str) -> Request:
        grant = store.put(key, len(FILE), checksum(algorithm, FILE))
        sent = {**grant.headers, f"x-amz-checksum-{algorithm}": value}
        given = {name: each for name, each in sent.items() if each is not None}
        return Request("PUT", grant.url, given, FORGED)

    return request


def on_checksum(algorithm: str) -> tuple[Misuse, ...]:
    other = checksum(algorithm, FORGED)["value"]
    return (
        Misuse(f"file of another {algorithm}", BOTH, another_file(algorithm)),
        Misuse(f"{algorithm} changed", BOTH, checksum_sent(algorithm, other)),
        Misuse(f"{algorithm} removed", BOTH, checksum_sent(algorithm, None)),
    )


def on_header(what: str, name: str, other: str, **terms: Any) -> tuple[Misuse, Misuse]:
    """What was granted on these terms is altered, and removed."""
    return (
        Misuse(f"{what} changed", BOTH, headers({name: other}, **terms)),
        Misuse(f"{what} removed", BOTH, headers({name: None}, **terms)),
    )


MISUSES = (
    *(misuse for algorithm in CRCS for misuse in on_checksum(algorithm)),
    *on_header("tags", "x-amz-tagging", "team=c", tags=TAGS),
    *on_header("storage class", "x-amz-storage-class", "GLACIER", **KEPT),
    # Changed to aws:kms it proves nothing: neither server has keys, and both refuse it anyway.
    Misuse(
        "encryption removed", BOTH, headers({"x-amz-server-side-encryption": None}, **ENCRYPTED)
    ),
)


@each(MISUSES)
def test_a_misused_option_of_a_put_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = fresh()
    prove(store, misuse, key, put(store.put(key, len(FILE)), FILE))
