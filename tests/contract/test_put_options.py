"""The options of a PUT, except content type and size."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.contract.test_put import FILE, FORGED, with_headers
from tests.support.s3.checksums import ALGORITHMS, checksum
from tests.support.s3.http_requests import Request, get, put, send
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


def test_metadata_fills_storages_limit_together_with_the_grant_id(store: Store) -> None:
    key, metadata = new_key(), {"a": "x" * 1_996}
    grant = store.put(key, len(FILE), metadata=metadata)
    assert send(put(grant, FILE)).is_success
    stored = store.get_object(key)["Metadata"]
    assert stored == metadata | {"grant-id": grant.id}
    assert sum(len(name) + len(value) for name, value in stored.items()) <= 2_048
    too_long = {"a": "x" * 1_997}
    assert store.refusal_code(kind="put", max_size=20, metadata=too_long) == "metadata_invalid"


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


def test_a_put_that_must_not_replace_is_refused_where_storage_cannot_do_that(
    signing_store: Store,
) -> None:
    put_terms: Mapping[str, Any] = {"kind": "put", "max_size": 20, "bucket": "unconditional"}
    assert signing_store.refusal_code(**put_terms) == "kind_not_supported"
    assert signing_store.refusal_code(**put_terms, overwrite=True) is None


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
