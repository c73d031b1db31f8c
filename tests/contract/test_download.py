from collections.abc import Callable
from datetime import timedelta
from urllib.parse import unquote

import pytest

from tests.support.s3.http_requests import Request, get, send
from tests.support.s3.misuses import (
    BOTH,
    MINISTACK,
    SEAWEEDFS,
    SECRET,
    Misuse,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.queries import (
    QueryChange,
    append_parameters,
    change_query,
    prepend_parameters,
    remove_parameters,
    replace_parameter,
    tamper_parameter,
)
from tests.support.s3.stores import BUCKET, DOWNLOAD, OTHER_BUCKET, Store, new_key

NAMES = (
    "report.pdf",
    "50% off; a=b, c.txt",
    "Übergrößenträger.pdf",
    "re\u0301sume\u0301.txt",
    "отчёт за ноябрь.csv",
    "四半期報告書.xlsx",
    "تقرير.pdf",
    "रिपोर्ट.pdf",
    "🧾 \U0001d57d\U0001d58a.pdf",
)


def test_a_link_brings_the_right_bytes(store: Store) -> None:
    key, content = new_key(), bytes(range(256)) * 4_096
    store.put_object(key, content)
    assert send(get(store.download(key).url)).body == content


def test_a_link_brings_a_part_that_is_asked_for(store: Store) -> None:
    key = new_key()
    store.put_object(key, b"0123456789")
    request = Request("GET", store.download(key).url, {"Range": "bytes=2-4"})
    assert send(request)[::2] == (206, b"234")


def test_a_link_works_more_than_once(store: Store) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    request = get(store.download(key).url)
    assert [send(request).status for _ in range(3)] == [200, 200, 200]


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


def test_a_link_to_what_is_not_there_says_so(store: Store) -> None:
    assert send(get(store.download(new_key()).url)).status == 404


def saved_name(disposition: str) -> str:
    """Return the name under which a browser saves (RFC 6266), preferring the encoded one."""
    disposition_type, *params = disposition.split("; ", 1)
    assert disposition_type == "attachment"
    plain, encoded, name = "".join(params).partition("; filename*=UTF-8''")
    return unquote(name) if encoded else plain.removeprefix('filename="').removesuffix('"')


def with_query_change(change: QueryChange) -> Callable[[Store, str], Request]:
    """Return requests with links whose query is changed."""
    return lambda store, key: get(change_query(store.download(key).url, change))


def signed_with(**overrides: object) -> Callable[[Store, str], Request]:
    """Return requests with links that the service would not sign."""
    return lambda store, key: get(store.sign(DOWNLOAD, {"key": key}, **overrides).url)  # type: ignore[arg-type]


def with_method(method: str, body: bytes | None = None) -> Callable[[Store, str], Request]:
    return lambda store, key: Request(method, store.download(key).url, body=body)


def for_another_key(store: Store, key: str) -> Request:
    other = new_key()
    store.put_object(other, SECRET)
    return get(store.download(key).url.replace(key, other))


def in_other_bucket(store: Store, key: str) -> Request:
    store.client.put_object(Bucket=OTHER_BUCKET, Key=key, Body=SECRET)
    return get(store.download(key).url.replace(f"/{BUCKET}/", f"/{OTHER_BUCKET}/"))


def with_another_host(store: Store, key: str) -> Request:
    return Request("GET", store.download(key).url, {"Host": "storage.example"})


def with_header(name: str, value: str) -> Callable[[Store, str], Request]:
    return lambda store, key: Request("GET", store.download(key).url, {name: value})


MISUSES = (
    Misuse("signature tampered", BOTH, with_query_change(tamper_parameter("X-Amz-Signature"))),
    Misuse("signature removed", SEAWEEDFS, with_query_change(remove_parameters("X-Amz-Signature"))),
    # If the right signature came first, both servers would ignore the second one.
    Misuse(
        "signature doubled, wrong first",
        BOTH,
        with_query_change(prepend_parameters(f"X-Amz-Signature={'0' * 64}")),
    ),
    Misuse("key of another object", BOTH, for_another_key),
    Misuse("bucket of another object", BOTH, in_other_bucket),
    Misuse("host changed", BOTH, with_another_host),
    Misuse("life prolonged", BOTH, with_query_change(replace_parameter("X-Amz-Expires", "86400"))),
    Misuse(
        "life doubled, longer last",
        BOTH,
        with_query_change(append_parameters("X-Amz-Expires=86400")),
    ),
    Misuse(
        "life doubled, longer first",
        BOTH,
        with_query_change(prepend_parameters("X-Amz-Expires=86400")),
    ),
    Misuse(
        "date changed", BOTH, with_query_change(replace_parameter("X-Amz-Date", "20990101T000000Z"))
    ),
    Misuse("grant id changed", BOTH, with_query_change(tamper_parameter("x-grant-id"))),
    Misuse("grant id removed", BOTH, with_query_change(remove_parameters("x-grant-id"))),
    Misuse("grant id doubled", BOTH, with_query_change(append_parameters("x-grant-id=mine"))),
    Misuse("parameter added", BOTH, with_query_change(append_parameters("foo=bar"))),
    Misuse("version added", BOTH, with_query_change(append_parameters("versionId=null"))),
    Misuse(
        "cache control added",
        BOTH,
        with_query_change(append_parameters("response-cache-control=public")),
    ),
    Misuse("access list asked for", BOTH, with_query_change(prepend_parameters("acl"))),
    Misuse("tags asked for", BOTH, with_query_change(prepend_parameters("tagging"))),
    Misuse("all parameters removed", BOTH, with_query_change(lambda _: [])),
    Misuse("algorithm removed", SEAWEEDFS, with_query_change(remove_parameters("X-Amz-Algorithm"))),
    Misuse("credential removed", BOTH, with_query_change(remove_parameters("X-Amz-Credential"))),
    Misuse("date removed", BOTH, with_query_change(remove_parameters("X-Amz-Date"))),
    Misuse("life removed", BOTH, with_query_change(remove_parameters("X-Amz-Expires"))),
    Misuse(
        "signed headers removed", BOTH, with_query_change(remove_parameters("X-Amz-SignedHeaders"))
    ),
    Misuse("used for HEAD", BOTH, with_method("HEAD")),
    Misuse("used for PUT", BOTH, with_method("PUT", b"forged")),
    Misuse("used for POST", BOTH, with_method("POST", b"forged")),
    Misuse("used for DELETE", BOTH, with_method("DELETE")),
    Misuse("unsigned header sent", SEAWEEDFS, with_header("x-amz-request-payer", "requester")),
    Misuse("expired", BOTH, signed_with(issued=timedelta(seconds=-61), expires_in=60)),
    Misuse("not yet valid", MINISTACK, signed_with(issued=timedelta(hours=2))),
    Misuse("signed for over seven days", BOTH, signed_with(expires_in=604_801)),
    Misuse("signed with a wrong secret", BOTH, signed_with(secret_key="wrong")),
    Misuse("signed with an unknown key", BOTH, signed_with(access_key="AKIDUNKNOWN")),
    Misuse("signed with a made-up session", BOTH, signed_with(token="made up")),
    Misuse("signed for another region", MINISTACK, signed_with(region="eu-west-1")),
)


@parametrize_misuses(MISUSES)
def test_a_misused_link_gives_nothing_and_changes_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    check_misuse(store, misuse, key, get(store.download(key).url))
