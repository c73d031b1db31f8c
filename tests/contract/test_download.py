from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.s3.http_requests import Request, get, send
from tests.support.s3.misuses import (
    BOTH,
    SEAWEEDFS,
    SECRET,
    MakeRequest,
    Misuse,
    QueryChange,
    append_parameters,
    change_query,
    change_request,
    check_misuse,
    parametrize_misuses,
    remove_parameters,
    replace_parameter,
    url_misuses,
)
from tests.support.s3.stores import (
    BUCKET,
    DOWNLOAD,
    OTHER_BUCKET,
    VERSIONED_BUCKET,
    Store,
    new_key,
    versioned_profile,
)

NAMES = ("50% off; a=b, c.txt", "Übergrößenträger.pdf", "🧾 \U0001d57d\U0001d58a.pdf")


def test_a_link_brings_the_right_bytes(store: Store) -> None:
    key, content = new_key(), bytes(range(256)) * 4_096
    store.put_object(key, content)
    assert send(get(store.download(key).url)).body == content


@pytest.mark.parametrize("name", NAMES)
def test_a_download_is_saved_under_the_name_that_was_granted(store: Store, name: str) -> None:
    key = new_key()
    store.put_object(key, b"hello")
    response = send(get(store.download(key, filename=name).url))
    assert saved_name(response.headers["content-disposition"]) == name


def saved_name(disposition: str) -> str:
    """Return the name under which a browser saves (RFC 6266), preferring the encoded one."""
    disposition_type, *params = disposition.split("; ", 1)
    assert disposition_type == "attachment"
    plain, encoded, name = "".join(params).partition("; filename*=UTF-8''")
    return unquote(name) if encoded else plain.removeprefix('filename="').removesuffix('"')


def with_query_change(change: QueryChange, **terms: Any) -> MakeRequest:
    """Return requests with links granted on these terms, whose query is changed."""
    return change_request(with_method("GET", **terms), change)


def query_misuses(label: str, name: str, other_value: str, **terms: Any) -> tuple[Misuse, Misuse]:
    """Return misuses that change and that remove a parameter granted on these terms."""
    change, removal = replace_parameter(name, other_value), remove_parameters(name)
    return (
        Misuse(f"{label} changed", BOTH, with_query_change(change, **terms)),
        Misuse(f"{label} removed", BOTH, with_query_change(removal, **terms)),
    )


def signed_with(**overrides: Any) -> MakeRequest:
    """Return requests with links that the service would not sign."""
    return lambda store, key: get(store.sign(DOWNLOAD, {"key": key}, **overrides).url)


def with_method(method: str, body: bytes | None = None, /, **terms: Any) -> MakeRequest:
    return lambda store, key: Request(method, store.download(key, **terms).url, body=body)


def for_another_key(store: Store, key: str) -> Request:
    other = new_key()
    store.put_object(other, SECRET)
    return get(store.download(key).url.replace(key, other))


def in_other_bucket(store: Store, key: str) -> Request:
    store.client.put_object(Bucket=OTHER_BUCKET, Key=key, Body=SECRET)
    return get(store.download(key).url.replace(f"/{BUCKET}/", f"/{OTHER_BUCKET}/"))


def with_header(name: str, value: str) -> MakeRequest:
    return lambda store, key: Request("GET", store.download(key).url, {name: value})


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


@pytest.mark.parametrize(
    ("terms", "headers"),
    [
        ({"content_type": "image/png"}, {"content-type": "image/png"}),
        (INLINE, {"content-type": "image/png", "content-disposition": 'inline; filename="a.png"'}),
        *(({name: value}, {name.replace("_", "-"): value}) for name, value in OVERRIDES.items()),
    ],
    ids=["content type", "may be shown", *OVERRIDES],
)
def test_a_download_has_the_headers_that_were_granted(
    store: Store, terms: Mapping[str, Any], headers: Mapping[str, str]
) -> None:
    key = new_key()
    store.put_object(key, b"hello", ContentType="text/html")
    assert send(get(store.download(key, **terms).url)).headers.items() >= headers.items()


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
    Misuse("key of another object", BOTH, for_another_key),
    Misuse("bucket of another object", BOTH, in_other_bucket),
    Misuse("host changed", BOTH, with_header("Host", "storage.example")),
    Misuse("unsigned header sent", SEAWEEDFS, with_header("x-amz-request-payer", "requester")),
    Misuse(
        "cache control added",
        BOTH,
        with_query_change(append_parameters("response-cache-control=public")),
    ),
    # CVE-2018-16477
    *query_misuses("content type", "response-content-type", "text%2Fhtml"),
    *query_misuses("disposition", "response-content-disposition", "inline"),
    Misuse("used for HEAD", BOTH, with_method("HEAD")),
    Misuse("used for PUT", BOTH, with_method("PUT", b"forged")),
    Misuse("used for POST", BOTH, with_method("POST", b"forged")),
    Misuse("used for DELETE", BOTH, with_method("DELETE")),
    *url_misuses(with_method("GET"), signed_with),
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
def test_a_misused_link_gives_nothing_and_changes_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    check_misuse(store, misuse, key, get(store.download(key).url))
