"""Attacks that worked elsewhere, on what was rightfully signed: storage refuses each."""

from datetime import timedelta
from typing import Any

from tests.contract.test_download import altered
from tests.contract.test_put import headers
from tests.contract.test_put import holding as too_long
from tests.contract.test_upload import FILE, FORGED, at_the_other_bucket, field, holding, signed
from tests.support.s3.http_requests import Request, get, post, put, send
from tests.support.s3.misuses import BOTH, MINISTACK, SECRET, Misuse, each, prove
from tests.support.s3.queries import replaced, without
from tests.support.s3.stores import Store, fresh

OWNER_HEADER = "x-amz-expected-bucket-owner"


def html(store: Store, key: str) -> Any:
    return altered(replaced("response-content-type", "text%2Fhtml"))(store, key)


def owned(account: str | None) -> Any:
    def request(store: Store, key: str) -> Request:
        url = store.download(key, check_owner=True).url
        return Request("GET", url, {} if account is None else {OWNER_HEADER: account})

    return request


def a_second_time(store: Store, key: str) -> Request:
    other = f"{key}.other"
    grant = store.put(other, len(FILE), overwrite=False)
    assert send(put(grant, FILE)).accepted
    return put(grant, FORGED[: len(FILE)])


ON_LINKS = (
    # 7: CVE-2018-16477
    Misuse("content type of a link changed", BOTH, html),
    Misuse("content type of a link removed", BOTH, altered(without("response-content-type"))),
    Misuse(
        "disposition of a link changed",
        BOTH,
        altered(replaced("response-content-disposition", "inline")),
    ),
    Misuse("disposition of a link removed", BOTH, altered(without("response-content-disposition"))),
)
ON_OWNERS = (
    # 18: neither server compares the account itself; they hold the client to sending it
    Misuse("account not checked", BOTH, owned(None)),
    Misuse("account changed", BOTH, owned("111122223333")),
)
ON_FORMS = (
    # 5: CVE-2026-126084
    Misuse("content type of a form changed", BOTH, field("Content-Type", "text/html")),
    Misuse("content type of a form removed", BOTH, field("Content-Type", None)),
    Misuse("parameter of a content type added", BOTH, field("Content-Type", "image/png;a=b")),
    # 6: CVE-2026-126085, CVE-2020-8162
    Misuse("size of a form exceeded", BOTH, holding(bytes(1_000_000))),
    # 8: CVE-2026-33173
    Misuse("metadata of a form added", BOTH, field("x-amz-meta-content-type", "text/html")),
    # 9: CVE-2023-43040
    Misuse("bucket named by a field", MINISTACK, field("bucket", "contract-other")),
    # 10: CVE-2023-28434
    Misuse("form posted to any bucket", BOTH, at_the_other_bucket),
    # 19: unlimited use of one grant
    Misuse("form used too late", BOTH, signed(issued=timedelta(minutes=-6), expires_in=300)),
)
ON_PUTS = (
    # 5: CVE-2026-126084
    Misuse("content type of a put changed", BOTH, headers({"content-type": "text/html"})),
    # 6: CVE-2026-126085, CVE-2020-8162
    Misuse("size of a put exceeded", BOTH, too_long(bytes(1_000_000))),
    # 14: a link used again once its file was scanned
    Misuse("put used a second time", BOTH, a_second_time),
)


@each((*ON_LINKS, *ON_OWNERS))
def test_an_attack_by_a_link_is_refused(store: Store, misuse: Misuse) -> None:
    key = fresh()
    store.store(key, SECRET)
    prove(store, misuse, key, get(store.download(key).url))


@each(ON_FORMS)
def test_an_attack_by_a_form_is_refused(store: Store, misuse: Misuse) -> None:
    key = fresh()
    prove(store, misuse, key, post(store.upload(key), FILE))


@each(ON_PUTS)
def test_an_attack_by_a_put_is_refused(store: Store, misuse: Misuse) -> None:
    key = fresh()
    prove(store, misuse, key, put(store.put(key, len(FILE)), FILE))
