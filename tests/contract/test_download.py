from collections.abc import Callable
from datetime import timedelta
from urllib.parse import unquote

import pytest

from tests.support.s3.http_requests import Request, get, send
from tests.support.s3.misuses import BOTH, MINISTACK, SEAWEEDFS, SECRET, Misuse, each, prove
from tests.support.s3.queries import Change, added, changed, flipped, preceded, replaced, without
from tests.support.s3.stores import BUCKET, DOWNLOAD, OTHER_BUCKET, Store, fresh

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
    key, content = fresh(), bytes(range(256)) * 4_096
    store.store(key, content)
    assert send(get(store.download(key).url)).body == content


def test_a_link_brings_a_part_that_is_asked_for(store: Store) -> None:
    key = fresh()
    store.store(key, b"0123456789")
    request = Request("GET", store.download(key).url, {"Range": "bytes=2-4"})
    assert send(request)[::2] == (206, b"234")


def test_a_link_works_more_than_once(store: Store) -> None:
    key = fresh()
    store.store(key, SECRET)
    request = get(store.download(key).url)
    assert [send(request).status for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("name", NAMES)
def test_a_download_is_saved_under_the_name_that_was_granted(store: Store, name: str) -> None:
    key = fresh()
    store.store(key, b"hello")
    answer = send(get(store.download(key, filename=name).url))
    assert saved_as(answer.headers["content-disposition"]) == name


def test_a_download_has_the_content_type_that_was_granted(store: Store) -> None:
    key = fresh()
    store.store(key, b"hello", ContentType="text/html")
    answer = send(get(store.download(key, content_type="image/png").url))
    assert answer.headers["content-type"] == "image/png"


def test_a_link_to_what_is_not_there_says_so(store: Store) -> None:
    assert send(get(store.download(fresh()).url)).status == 404


def saved_as(disposition: str) -> str:
    """The name under which a browser saves (RFC 6266): the encoded one if there is one."""
    kind, *params = disposition.split("; ", 1)
    assert kind == "attachment"
    plain, encoded, name = "".join(params).partition("; filename*=UTF-8''")
    return unquote(name) if encoded else plain.removeprefix('filename="').removesuffix('"')


def altered(change: Change) -> Callable[[Store, str], Request]:
    """A link whose query is changed."""
    return lambda store, key: get(changed(store.download(key).url, change))


def signed(**wrong: object) -> Callable[[Store, str], Request]:
    """A link that no Issuer would give."""
    return lambda store, key: get(store.sign(DOWNLOAD, {"key": key}, **wrong).url)  # type: ignore[arg-type]


def by(method: str, body: bytes | None = None) -> Callable[[Store, str], Request]:
    return lambda store, key: Request(method, store.download(key).url, body=body)


def elsewhere(store: Store, key: str) -> Request:
    other = fresh()
    store.store(other, SECRET)
    return get(store.download(key).url.replace(key, other))


def in_the_other_bucket(store: Store, key: str) -> Request:
    store.client.put_object(Bucket=OTHER_BUCKET, Key=key, Body=SECRET)
    return get(store.download(key).url.replace(f"/{BUCKET}/", f"/{OTHER_BUCKET}/"))


def under_another_host(store: Store, key: str) -> Request:
    return Request("GET", store.download(key).url, {"Host": "storage.example"})


def with_header(name: str, value: str) -> Callable[[Store, str], Request]:
    return lambda store, key: Request("GET", store.download(key).url, {name: value})


MISUSES = (
    Misuse("signature tampered", BOTH, altered(flipped("X-Amz-Signature"))),
    Misuse("signature removed", SEAWEEDFS, altered(without("X-Amz-Signature"))),
    # After the right signature, neither reads another: nothing is had that was not granted.
    Misuse(
        "signature doubled, wrong first", BOTH, altered(preceded(f"X-Amz-Signature={'0' * 64}"))
    ),
    Misuse("key of another object", BOTH, elsewhere),
    Misuse("bucket of another object", BOTH, in_the_other_bucket),
    Misuse("host changed", BOTH, under_another_host),
    Misuse("life prolonged", BOTH, altered(replaced("X-Amz-Expires", "86400"))),
    Misuse("life doubled, longer last", BOTH, altered(added("X-Amz-Expires=86400"))),
    Misuse("life doubled, longer first", BOTH, altered(preceded("X-Amz-Expires=86400"))),
    Misuse("date changed", BOTH, altered(replaced("X-Amz-Date", "20990101T000000Z"))),
    Misuse("grant id changed", BOTH, altered(flipped("x-grant-id"))),
    Misuse("grant id removed", BOTH, altered(without("x-grant-id"))),
    Misuse("grant id doubled", BOTH, altered(added("x-grant-id=mine"))),
    Misuse("parameter added", BOTH, altered(added("foo=bar"))),
    Misuse("version added", BOTH, altered(added("versionId=null"))),
    Misuse("cache control added", BOTH, altered(added("response-cache-control=public"))),
    Misuse("access list asked for", BOTH, altered(preceded("acl"))),
    Misuse("tags asked for", BOTH, altered(preceded("tagging"))),
    Misuse("all parameters removed", BOTH, altered(lambda _: [])),
    Misuse("algorithm removed", SEAWEEDFS, altered(without("X-Amz-Algorithm"))),
    Misuse("credential removed", BOTH, altered(without("X-Amz-Credential"))),
    Misuse("date removed", BOTH, altered(without("X-Amz-Date"))),
    Misuse("life removed", BOTH, altered(without("X-Amz-Expires"))),
    Misuse("signed headers removed", BOTH, altered(without("X-Amz-SignedHeaders"))),
    Misuse("used for HEAD", BOTH, by("HEAD")),
    Misuse("used for PUT", BOTH, by("PUT", b"forged")),
    Misuse("used for POST", BOTH, by("POST", b"forged")),
    Misuse("used for DELETE", BOTH, by("DELETE")),
    Misuse("unsigned header sent", SEAWEEDFS, with_header("x-amz-request-payer", "requester")),
    Misuse("expired", BOTH, signed(issued=timedelta(seconds=-61), expires_in=60)),
    Misuse("not yet valid", MINISTACK, signed(issued=timedelta(hours=2))),
    Misuse("signed for over seven days", BOTH, signed(expires_in=604_801)),
    Misuse("signed with a wrong secret", BOTH, signed(secret_key="wrong")),
    Misuse("signed with an unknown key", BOTH, signed(access_key="AKIDUNKNOWN")),
    Misuse("signed with a made-up session", BOTH, signed(token="made up")),
    Misuse("signed for another region", MINISTACK, signed(region="eu-west-1")),
)


@each(MISUSES)
def test_a_misused_link_gives_nothing_and_changes_nothing(store: Store, misuse: Misuse) -> None:
    key = fresh()
    store.store(key, SECRET)
    prove(store, misuse, key, get(store.download(key).url))
