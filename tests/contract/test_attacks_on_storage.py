"""Attacks that succeeded on other systems, with validly signed grants: storage refuses each."""

from datetime import timedelta
from typing import Any

from tests.contract.test_download import with_query_change
from tests.contract.test_put import with_file as put_with_file
from tests.contract.test_put import with_headers
from tests.contract.test_upload import (
    FILE,
    FORGED,
    in_other_bucket,
    signed_with,
    with_field,
    with_file,
)
from tests.support.s3.http_requests import Request, get, post, put, send
from tests.support.s3.misuses import (
    BOTH,
    MINISTACK,
    SECRET,
    Misuse,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.queries import remove_parameters, replace_parameter
from tests.support.s3.stores import Store, new_key

OWNER_HEADER = "x-amz-expected-bucket-owner"


def link_with_html_type(store: Store, key: str) -> Any:
    return with_query_change(replace_parameter("response-content-type", "text%2Fhtml"))(store, key)


def link_with_account(account: str | None) -> Any:
    def request(store: Store, key: str) -> Request:
        url = store.download(key, check_owner=True).url
        return Request("GET", url, {} if account is None else {OWNER_HEADER: account})

    return request


def put_twice(store: Store, key: str) -> Request:
    other_key = f"{key}.other"
    grant = store.put(other_key, len(FILE), overwrite=False)
    assert send(put(grant, FILE)).is_success
    return put(grant, FORGED[: len(FILE)])


LINK_MISUSES = (
    # 7: CVE-2018-16477
    Misuse("content type of a link changed", BOTH, link_with_html_type),
    Misuse(
        "content type of a link removed",
        BOTH,
        with_query_change(remove_parameters("response-content-type")),
    ),
    Misuse(
        "disposition of a link changed",
        BOTH,
        with_query_change(replace_parameter("response-content-disposition", "inline")),
    ),
    Misuse(
        "disposition of a link removed",
        BOTH,
        with_query_change(remove_parameters("response-content-disposition")),
    ),
)
OWNER_MISUSES = (
    # 18: neither server compares the account, but both require the client to send the header
    Misuse("account not checked", BOTH, link_with_account(None)),
    Misuse("account changed", BOTH, link_with_account("111122223333")),
)
FORM_MISUSES = (
    # 5: CVE-2026-126084
    Misuse("content type of a form changed", BOTH, with_field("Content-Type", "text/html")),
    Misuse("content type of a form removed", BOTH, with_field("Content-Type", None)),
    Misuse("parameter of a content type added", BOTH, with_field("Content-Type", "image/png;a=b")),
    # 6: CVE-2026-126085, CVE-2020-8162
    Misuse("size of a form exceeded", BOTH, with_file(bytes(1_000_000))),
    # 8: CVE-2026-33173
    Misuse("metadata of a form added", BOTH, with_field("x-amz-meta-content-type", "text/html")),
    # 9: CVE-2023-43040
    Misuse("bucket named by a field", MINISTACK, with_field("bucket", "contract-other")),
    # 10: CVE-2023-28434
    Misuse("form posted to any bucket", BOTH, in_other_bucket),
    # 19: unlimited use of one grant
    Misuse("form used too late", BOTH, signed_with(issued=timedelta(minutes=-6), expires_in=300)),
)
PUT_MISUSES = (
    # 5: CVE-2026-126084
    Misuse("content type of a put changed", BOTH, with_headers({"content-type": "text/html"})),
    # 6: CVE-2026-126085, CVE-2020-8162
    Misuse("size of a put exceeded", BOTH, put_with_file(bytes(1_000_000))),
    # 14: a link used again once its file was scanned
    Misuse("put used a second time", BOTH, put_twice),
)


@parametrize_misuses((*LINK_MISUSES, *OWNER_MISUSES))
def test_an_attack_by_a_link_is_refused(store: Store, misuse: Misuse) -> None:
    key = new_key()
    store.put_object(key, SECRET)
    check_misuse(store, misuse, key, get(store.download(key).url))


@parametrize_misuses(FORM_MISUSES)
def test_an_attack_by_a_form_is_refused(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, post(store.upload(key), FILE))


@parametrize_misuses(PUT_MISUSES)
def test_an_attack_by_a_put_is_refused(store: Store, misuse: Misuse) -> None:
    key = new_key()
    check_misuse(store, misuse, key, put(store.put(key, len(FILE)), FILE))
