"""What a link may say beside its name and type."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.support.s3.http_requests import Request, get, send
from tests.support.s3.misuses import BOTH, SECRET, Misuse, each, prove
from tests.support.s3.queries import Change, added, changed, replaced, without
from tests.support.s3.stores import DOWNLOAD, VERSIONED_BUCKET, Store, fresh, versioned

OVERRIDES: Mapping[str, str] = {
    "cache_control": "private, max-age=60",
    "content_language": "de-CH",
    "content_encoding": "identity",
    "expires": "Thu, 31 Dec 2026 23:59:59 GMT",
}
INLINE: Mapping[str, Any] = {"inline": True, "content_type": "image/png", "filename": "a.png"}


def head(url: str) -> Request:
    return Request("HEAD", url)


def old_and_new(store: Store, key: str) -> tuple[str, str]:
    """Store two versions of an object; their ids."""
    place = {"Bucket": VERSIONED_BUCKET, "Key": key}
    old, new = (store.client.put_object(**place, Body=body) for body in (b"old", SECRET))
    return old["VersionId"], new["VersionId"]


def of_version(store: Store, key: str, version: str) -> str:
    item = {"key": key, "version_id": version}
    (grant,) = store.grants(item, **{**DOWNLOAD, "bucket": versioned(store.name)})
    return grant.url


def test_a_link_for_head_says_what_is_stored(store: Store) -> None:
    key = fresh()
    store.store(key, b"0123456789")
    answer = send(head(store.download(key, method="HEAD").url))
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "10", b"")


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_download_has_the_header_that_was_granted(store: Store, name: str) -> None:
    key = fresh()
    store.store(key, b"hello")
    answer = send(get(store.download(key, **{name: OVERRIDES[name]}).url))
    assert answer.headers[name.replace("_", "-")] == OVERRIDES[name]


def test_a_download_that_may_be_shown_is(store: Store) -> None:
    key = fresh()
    store.store(key, b"hello")
    headers = send(get(store.download(key, **INLINE).url)).headers
    assert headers["content-disposition"] == 'inline; filename="a.png"'
    assert headers["content-type"] == "image/png"


def test_a_link_to_a_version_brings_that_version(store: Store) -> None:
    key = fresh()
    old, new = old_and_new(store, key)
    assert send(get(of_version(store, key, old))).body == b"old"
    assert send(get(of_version(store, key, new))).body == SECRET


Make = Callable[[Store, str], Request]


def for_head(method: str, body: bytes | None = None) -> Make:
    return lambda store, key: Request(method, store.download(key, method="HEAD").url, body=body)


def altered(change: Change, **terms: Any) -> Make:
    """A link granted on these terms, whose query is changed."""
    return lambda store, key: get(changed(store.download(key, **terms).url, change))


def of_old_version(change: Callable[[str], Change]) -> Make:
    """A link to what was stored first, whose query is changed with regard to the newer version."""

    def request(store: Store, key: str) -> Request:
        old, new = old_and_new(store, key)
        return get(changed(of_version(store, key, old), change(new)))

    return request


def on_override(name: str) -> tuple[Misuse, Misuse]:
    """An override is altered, and removed."""
    granted, param = {name: OVERRIDES[name]}, f"response-{name.replace('_', '-')}"
    what = name.replace("_", " ")
    return (
        Misuse(f"{what} changed", BOTH, altered(replaced(param, "other"), **granted)),
        Misuse(f"{what} removed", BOTH, altered(without(param), **granted)),
    )


MISUSES = (
    Misuse("link for HEAD used for GET", BOTH, for_head("GET")),
    Misuse("link for HEAD used for PUT", BOTH, for_head("PUT", b"forged")),
    Misuse("link for HEAD used for DELETE", BOTH, for_head("DELETE")),
    *(misuse for name in OVERRIDES for misuse in on_override(name)),
    Misuse(
        "type of what is shown changed",
        BOTH,
        altered(replaced("response-content-type", "text%2Fhtml"), **INLINE),
    ),
    Misuse(
        "type of what is shown removed", BOTH, altered(without("response-content-type"), **INLINE)
    ),
    Misuse("version changed", BOTH, of_old_version(lambda newer: replaced("versionId", newer))),
    Misuse("version removed", BOTH, of_old_version(lambda _: without("versionId"))),
    Misuse("version doubled", BOTH, of_old_version(lambda newer: added(f"versionId={newer}"))),
)


@each(MISUSES)
def test_a_misused_option_of_a_link_gives_nothing(store: Store, misuse: Misuse) -> None:
    key = fresh()
    store.store(key, SECRET)
    prove(store, misuse, key, get(store.download(key).url))
