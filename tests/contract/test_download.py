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
    change_request,
    check_misuse,
    parametrize_misuses,
    url_misuses,
)
from tests.support.s3.queries import (
    QueryChange,
    append_parameters,
    remove_parameters,
    replace_parameter,
)
from tests.support.s3.stores import BUCKET, DOWNLOAD, OTHER_BUCKET, Store, new_key

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


def test_a_download_has_the_content_type_that_was_granted(store: Store) -> None:
    key = new_key()
    store.put_object(key, b"hello", ContentType="text/html")
    response = send(get(store.download(key, content_type="image/png").url))
    assert response.headers["content-type"] == "image/png"


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
)


@parametrize_misuses(MISUSES)
def test_a_misused_link_gives_nothing_and_changes_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    check_misuse(store, misuse, key, get(store.download(key).url))
