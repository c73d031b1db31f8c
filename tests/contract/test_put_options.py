"""The options of a PUT, except content type and size."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.contract.test_put import FILE, FORGED, header_misuses, with_headers
from tests.support.s3.checksums import ALGORITHMS, checksum
from tests.support.s3.http_requests import Request, get, put, send
from tests.support.s3.misuses import BOTH, Misuse, check_misuse, parametrize_misuses
from tests.support.s3.stores import BUCKET, Store, new_key

TAGS = {"team": "a b", "kept": "7 years"}
STORAGE_CLASS: Mapping[str, Any] = {"storage_class": "STANDARD_IA"}
ENCRYPTION: Mapping[str, Any] = {"encryption": {"algorithm": "AES256"}}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_put_with_a_checksum_of_its_file_is_accepted(store: Store, algorithm: str) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), checksum(algorithm, FILE)), FILE)).is_success
    assert store.get_object(key)["Body"] == FILE


def test_a_put_stores_the_tags_that_were_granted(store: Store) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), tags=TAGS), FILE)).is_success
    tags = store.client.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
    assert {each["Key"]: each["Value"] for each in tags} == TAGS


@pytest.mark.parametrize(
    ("terms", "stored"),
    [
        pytest.param(STORAGE_CLASS, {"StorageClass": "STANDARD_IA"}, id="class"),
        pytest.param(ENCRYPTION, {"ServerSideEncryption": "AES256"}, id="encryption"),
    ],
)
def test_a_put_stores_as_was_granted(
    store: Store, terms: Mapping[str, Any], stored: Mapping[str, str]
) -> None:
    key = new_key()
    assert send(put(store.put(key, len(FILE), **terms), FILE)).is_success
    assert store.get_object(key).items() >= {"Body": FILE, **stored}.items()


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
def test_a_misused_option_of_a_put_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, put(store.put(key, len(FILE)), FILE))
