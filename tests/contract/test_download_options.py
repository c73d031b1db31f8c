"""The options of a link, except file name and content type."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.support.s3.http_requests import Request, get, send
from tests.support.s3.misuses import BOTH, SECRET, Misuse, check_misuse, parametrize_misuses
from tests.support.s3.queries import (
    QueryChange,
    append_parameters,
    change_query,
    remove_parameters,
    replace_parameter,
)
from tests.support.s3.stores import DOWNLOAD, VERSIONED_BUCKET, Store, new_key, versioned_profile

OVERRIDES: Mapping[str, str] = {
    "cache_control": "private, max-age=60",
    "content_language": "de-CH",
    "content_encoding": "identity",
    "expires": "Thu, 31 Dec 2026 23:59:59 GMT",
}
INLINE: Mapping[str, Any] = {"inline": True, "content_type": "image/png", "filename": "a.png"}


def head_request(url: str) -> Request:
    return Request("HEAD", url)


def store_two_versions(store: Store, key: str) -> tuple[str, str]:
    """Store two versions of an object, and return their ids."""
    location = {"Bucket": VERSIONED_BUCKET, "Key": key}
    old, new = (store.client.put_object(**location, Body=body) for body in (b"old", SECRET))
    return old["VersionId"], new["VersionId"]


def version_url(store: Store, key: str, version: str) -> str:
    item = {"key": key, "version_id": version}
    (grant,) = store.issue_grants(item, **{**DOWNLOAD, "bucket": versioned_profile(store.name)})
    return grant.url


def test_a_link_for_head_says_what_is_stored(store: Store) -> None:
    key = new_key()
    store.put_object(key, b"0123456789")
    response = send(head_request(store.download(key, method="HEAD").url))
    assert (response.status, response.headers["content-length"], response.body) == (200, "10", b"")


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


def test_a_link_to_a_version_brings_that_version(store: Store) -> None:
    key = new_key()
    old, new = store_two_versions(store, key)
    assert send(get(version_url(store, key, old))).body == b"old"
    assert send(get(version_url(store, key, new))).body == SECRET


def test_a_plain_link_brings_the_object_as_it_is_stored(store: Store) -> None:
    key = new_key()
    store.put_object(key, SECRET, ContentType="image/gif", CacheControl="max-age=5")
    response = send(get(store.download(key, plain=True).url))
    assert response.body == SECRET
    assert response.headers["content-type"] == "image/gif"
    assert response.headers["cache-control"] == "max-age=5"
    assert "content-disposition" not in response.headers


def test_a_plain_link_to_a_version_brings_that_version(store: Store) -> None:
    key = new_key()
    old, _ = store_two_versions(store, key)
    item = {"key": key, "version_id": old}
    terms = {**DOWNLOAD, "bucket": versioned_profile(store.name), "plain": True}
    (grant,) = store.issue_grants(item, **terms)
    assert send(get(grant.url)).body == b"old"


MakeRequest = Callable[[Store, str], Request]


def head_link_with_method(method: str, body: bytes | None = None) -> MakeRequest:
    return lambda store, key: Request(method, store.download(key, method="HEAD").url, body=body)


def with_query_change(change: QueryChange, **terms: Any) -> MakeRequest:
    """Return requests with links granted on these terms, whose query is changed."""
    return lambda store, key: get(change_query(store.download(key, **terms).url, change))


def old_version_with(change: Callable[[str], QueryChange]) -> MakeRequest:
    """Return requests with links to the first version; `change` gets the second version's id."""

    def request(store: Store, key: str) -> Request:
        old, new = store_two_versions(store, key)
        return get(change_query(version_url(store, key, old), change(new)))

    return request


def override_misuses(name: str) -> tuple[Misuse, Misuse]:
    """Return misuses that change and that remove an override."""
    override, param = {name: OVERRIDES[name]}, f"response-{name.replace('_', '-')}"
    label = name.replace("_", " ")
    return (
        Misuse(
            f"{label} changed",
            BOTH,
            with_query_change(replace_parameter(param, "other"), **override),
        ),
        Misuse(f"{label} removed", BOTH, with_query_change(remove_parameters(param), **override)),
    )


MISUSES = (
    Misuse("link for HEAD used for GET", BOTH, head_link_with_method("GET")),
    Misuse("link for HEAD used for PUT", BOTH, head_link_with_method("PUT", b"forged")),
    Misuse("link for HEAD used for DELETE", BOTH, head_link_with_method("DELETE")),
    *(misuse for name in OVERRIDES for misuse in override_misuses(name)),
    Misuse(
        "type of an inline file changed",
        BOTH,
        with_query_change(replace_parameter("response-content-type", "text%2Fhtml"), **INLINE),
    ),
    Misuse(
        "type of an inline file removed",
        BOTH,
        with_query_change(remove_parameters("response-content-type"), **INLINE),
    ),
    *(
        Misuse(f"{name} added to a plain link", BOTH, with_query_change(change, plain=True))
        for name, change in {
            "type": append_parameters("response-content-type=text%2Fhtml"),
            "disposition": append_parameters("response-content-disposition=inline"),
            "grant id": append_parameters("x-grant-id=other.0"),
            "version": append_parameters("versionId=null"),
        }.items()
    ),
    Misuse(
        "version changed",
        BOTH,
        old_version_with(lambda newer: replace_parameter("versionId", newer)),
    ),
    Misuse("version removed", BOTH, old_version_with(lambda _: remove_parameters("versionId"))),
    Misuse(
        "version doubled",
        BOTH,
        old_version_with(lambda newer: append_parameters(f"versionId={newer}")),
    ),
)


@parametrize_misuses(MISUSES)
def test_a_misused_option_of_a_link_gives_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    check_misuse(store, misuse, key, get(store.download(key).url))
