"""The options of a link, except file name and content type."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.contract.test_download import query_misuses, with_method, with_query_change
from tests.support.s3.http_requests import Request, get, send
from tests.support.s3.misuses import (
    BOTH,
    SECRET,
    MakeRequest,
    Misuse,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.queries import (
    QueryChange,
    append_parameters,
    change_query,
    remove_parameters,
    replace_parameter,
)
from tests.support.s3.stores import VERSIONED_BUCKET, Store, new_key, versioned_profile

OVERRIDES: Mapping[str, str] = {
    "cache_control": "private, max-age=60",
    "content_language": "de-CH",
    "content_encoding": "identity",
    "expires": "Thu, 31 Dec 2026 23:59:59 GMT",
}
INLINE: Mapping[str, Any] = {"inline": True, "content_type": "image/png", "filename": "a.png"}


def store_two_versions(store: Store, key: str) -> tuple[str, str]:
    """Store two versions of an object, and return their ids."""
    location = {"Bucket": VERSIONED_BUCKET, "Key": key}
    old, new = (store.client.put_object(**location, Body=body) for body in (b"old", SECRET))
    return old["VersionId"], new["VersionId"]


def version_url(store: Store, key: str, version: str, **terms: Any) -> str:
    item, bucket = {"key": key, "version_id": version}, versioned_profile(store.name)
    (grant,) = store.issue_grants(item, bucket=bucket, **terms)
    return grant.url


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_download_has_the_header_that_was_granted(store: Store, name: str) -> None:
    key = new_key()
    store.put_object(key, b"hello")
    response = send(get(store.download(key, **{name: OVERRIDES[name]}).url))
    assert response.headers[name.replace("_", "-")] == OVERRIDES[name]


def test_a_download_that_may_be_shown_is(store: Store) -> None:
    key = new_key()
    store.put_object(key, b"hello")
    headers = send(get(store.download(key, **INLINE).url)).headers
    assert headers["content-disposition"] == 'inline; filename="a.png"'
    assert headers["content-type"] == "image/png"


@pytest.mark.parametrize("terms", [{}, {"plain": True}], ids=["with options", "plain"])
def test_a_link_to_a_version_brings_that_version(store: Store, terms: dict[str, bool]) -> None:
    key = new_key()
    old, new = store_two_versions(store, key)
    assert send(get(version_url(store, key, old, **terms))).body == b"old"
    assert send(get(version_url(store, key, new, **terms))).body == SECRET


def test_a_plain_link_brings_the_object_as_it_is_stored(store: Store) -> None:
    key = new_key()
    store.put_object(key, SECRET, ContentType="image/gif", CacheControl="max-age=5")
    response = send(get(store.download(key, plain=True).url))
    assert response.body == SECRET
    assert response.headers["content-type"] == "image/gif"
    assert response.headers["cache-control"] == "max-age=5"
    assert "content-disposition" not in response.headers


def old_version_with(change: Callable[[str], QueryChange]) -> MakeRequest:
    """Return requests with links to the first version; `change` gets the second version's id."""

    def request(store: Store, key: str) -> Request:
        old, new = store_two_versions(store, key)
        return get(change_query(version_url(store, key, old), change(new)))

    return request


def override_misuses(name: str) -> tuple[Misuse, Misuse]:
    """Return misuses that change and that remove an override."""
    label, override = name.replace("_", " "), {name: OVERRIDES[name]}
    return query_misuses(label, f"response-{name.replace('_', '-')}", "other", **override)


MISUSES = (
    Misuse("link for HEAD used for GET", BOTH, with_method("GET", method="HEAD")),
    Misuse("link for HEAD used for PUT", BOTH, with_method("PUT", b"forged", method="HEAD")),
    Misuse("link for HEAD used for DELETE", BOTH, with_method("DELETE", method="HEAD")),
    *(misuse for name in OVERRIDES for misuse in override_misuses(name)),
    *query_misuses("type of an inline file", "response-content-type", "text%2Fhtml", **INLINE),
    *(
        Misuse(f"{name} added to a plain link", BOTH, with_query_change(change, plain=True))
        for name, change in {
            "type": append_parameters("response-content-type=text%2Fhtml"),
            "disposition": append_parameters("response-content-disposition=inline"),
            "grant id": append_parameters("x-grant-id=other.0"),
            "version": append_parameters("versionId=null"),
        }.items()
    ),
    *(
        Misuse(f"version {name}", BOTH, old_version_with(change))
        for name, change in {
            "changed": lambda newer: replace_parameter("versionId", newer),
            "removed": lambda _: remove_parameters("versionId"),
            "doubled": lambda newer: append_parameters(f"versionId={newer}"),
        }.items()
    ),
)


@parametrize_misuses(MISUSES)
def test_a_misused_option_of_a_link_gives_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    check_misuse(store, misuse, key, get(store.download(key).url))
