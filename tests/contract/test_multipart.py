from collections.abc import Callable
from typing import Any

from tests.support.s3.http_requests import Request, put, send
from tests.support.s3.misuses import (
    BOTH,
    SEAWEEDFS,
    SECRET,
    Misuse,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.queries import (
    QueryChange,
    change_query,
    remove_parameters,
    replace_parameter,
    tamper_parameter,
)
from tests.support.s3.stores import BUCKET, Store, new_key
from valetkey.wire.replies import Grant

PART = 5_242_880
FILE = b"a part, which is the last"
FORGED = b"a forgery of the same size"[: len(FILE)]


def completion_body(*etags: str) -> bytes:
    parts = (
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    return f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()


def completion_request(grant: Grant, *etags: str) -> Request:
    return Request("POST", grant.url, {"content-type": "application/xml"}, completion_body(*etags))


def abort_request(grant: Grant) -> Request:
    assert grant.multipart is not None
    return Request("DELETE", grant.multipart.abort_url)


def upload_part(store: Store, grant: Grant, file: bytes = FILE) -> str:
    """Upload the first part, and return its ETag."""
    (part,) = store.parts(grant, 1)
    response = send(put(part, file))
    assert response.is_success
    etag: str = response.headers["etag"]
    return etag


def test_a_file_of_several_parts_is_stored_byte_for_byte(store: Store) -> None:
    key, file = new_key(), bytes(range(256)) * (PART // 256) + FILE
    grant = store.multipart(key, len(file))
    slices = (file[:PART], file[PART:])
    parts = store.parts(grant, 2, 1)[::-1]
    etags = [
        send(put(part, each)).headers["etag"] for part, each in zip(parts, slices, strict=True)
    ]
    assert send(completion_request(grant, *etags)).is_success
    assert store.get_object(key)["Body"] == file


def test_an_object_of_parts_has_the_type_the_metadata_and_the_id_of_its_grant(
    store: Store,
) -> None:
    key = new_key()
    grant = store.multipart(
        key, len(FILE), content_type="image/png", metadata={"origin": "camera 7"}
    )
    assert send(completion_request(grant, upload_part(store, grant))).is_success
    stored = store.get_object(key)
    assert stored["ContentType"] == "image/png"
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_part_may_be_sent_again(store: Store) -> None:
    key = new_key()
    grant = store.multipart(key, len(FILE))
    upload_part(store, grant, FORGED)
    assert send(completion_request(grant, upload_part(store, grant))).is_success
    assert store.get_object(key)["Body"] == FILE


def test_after_an_abort_no_part_is_accepted(store: Store) -> None:
    grant = store.multipart(new_key(), len(FILE))
    (part,) = store.parts(grant, 1)
    assert send(abort_request(grant)).is_success
    assert send(put(part, FILE)).status == 404


MakeRequest = Callable[[Store, str], Request]


def start_upload(store: Store, key: str) -> tuple[Grant, Grant]:
    """Start another upload to the key; return its grant and that of its only part."""
    grant = store.multipart(key, len(FORGED))
    return grant, store.parts(grant, 1)[0]


def part_with(change: QueryChange) -> MakeRequest:
    """Return requests with parts whose query is changed."""

    def request(store: Store, key: str) -> Request:
        _, part_grant = start_upload(store, key)
        return Request("PUT", change_query(part_grant.url, change), part_grant.headers, FORGED)

    return request


def part_with_file(file: bytes) -> MakeRequest:
    def request(store: Store, key: str) -> Request:
        _, part_grant = start_upload(store, key)
        return Request(
            "PUT", part_grant.url, {**part_grant.headers, "content-length": str(len(file))}, file
        )

    return request


def part_copied_from_another_object(store: Store, key: str) -> Request:
    """Copy an object for which there is no grant into the part."""
    _, part_grant = start_upload(store, key)
    secret = new_key()
    store.put_object(secret, SECRET)
    return Request(
        "PUT",
        part_grant.url,
        {**part_grant.headers, "x-amz-copy-source": f"/{BUCKET}/{secret}"},
        FORGED,
    )


def part_under_another_key(store: Store, key: str) -> Request:
    _, part_grant = start_upload(store, key)
    other, _ = start_upload(store, new_key())
    return Request("PUT", part_grant.url.replace(key, other.key), part_grant.headers, FORGED)


def part_with_method(method: str) -> MakeRequest:
    return lambda store, key: Request(method, start_upload(store, key)[1].url)


def completion_with(change: QueryChange) -> MakeRequest:
    """Return completions whose query is changed."""

    def request(store: Store, key: str) -> Request:
        grant, _ = start_upload(store, key)
        etag = upload_part(store, grant, FORGED)
        return Request("POST", change_query(grant.url, change), body=completion_body(etag))

    return request


def completion_with_etags(*etags: str) -> MakeRequest:
    return lambda store, key: completion_request(start_upload(store, key)[0], *etags)


def completion_with_method(method: str) -> MakeRequest:
    return lambda store, key: Request(method, start_upload(store, key)[0].url)


def abort_with(change: QueryChange) -> MakeRequest:
    def request(store: Store, key: str) -> Request:
        request = abort_request(start_upload(store, key)[0])
        return Request(request.method, change_query(request.url, change))

    return request


def abort_with_method(method: str, body: bytes | None = None) -> MakeRequest:
    return lambda store, key: Request(
        method, abort_request(start_upload(store, key)[0]).url, body=body
    )


UNKNOWN_ETAG = '"00000000000000000000000000000000"'
MISUSES = (
    Misuse("part one byte too large", BOTH, part_with_file(FILE + b"!")),
    Misuse("part one byte too small", BOTH, part_with_file(FILE[:-1])),
    Misuse("part empty", BOTH, part_with_file(b"")),
    Misuse("part of another number", BOTH, part_with(replace_parameter("partNumber", "2"))),
    Misuse("part of no number", BOTH, part_with(remove_parameters("partNumber"))),
    Misuse("part of another upload", BOTH, part_with(tamper_parameter("uploadId"))),
    Misuse("part of no upload", BOTH, part_with(remove_parameters("uploadId", "partNumber"))),
    Misuse("part under another key", BOTH, part_under_another_key),
    Misuse("part signature tampered", BOTH, part_with(tamper_parameter("X-Amz-Signature"))),
    Misuse("part signature removed", SEAWEEDFS, part_with(remove_parameters("X-Amz-Signature"))),
    Misuse("part life prolonged", BOTH, part_with(replace_parameter("X-Amz-Expires", "86400"))),
    Misuse("part grant id changed", BOTH, part_with(tamper_parameter("x-grant-id"))),
    Misuse("part used for GET", BOTH, part_with_method("GET")),
    Misuse("part used for DELETE", BOTH, part_with_method("DELETE")),
    Misuse("part copied from another object", SEAWEEDFS, part_copied_from_another_object),
    Misuse("completion of another upload", BOTH, completion_with(tamper_parameter("uploadId"))),
    Misuse(
        "completion signature tampered", BOTH, completion_with(tamper_parameter("X-Amz-Signature"))
    ),
    Misuse("completion grant id removed", BOTH, completion_with(remove_parameters("x-grant-id"))),
    Misuse("completion without a part", SEAWEEDFS, completion_with_etags()),
    Misuse("completion with a part that is not there", BOTH, completion_with_etags(UNKNOWN_ETAG)),
    Misuse("completion used for GET", BOTH, completion_with_method("GET")),
    Misuse("completion used for DELETE", BOTH, completion_with_method("DELETE")),
    Misuse("abort of another upload", BOTH, abort_with(tamper_parameter("uploadId"))),
    Misuse("abort of the object itself", BOTH, abort_with(remove_parameters("uploadId"))),
    Misuse("abort signature tampered", BOTH, abort_with(tamper_parameter("X-Amz-Signature"))),
    Misuse("abort used for GET", BOTH, abort_with_method("GET")),
    Misuse("abort used for POST", BOTH, abort_with_method("POST", completion_body(UNKNOWN_ETAG))),
)


@parametrize_misuses(MISUSES)
def test_a_misused_upload_of_parts_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    grant = store.multipart(key, len(FILE))
    etag = upload_part(store, grant)
    check_misuse(store, misuse, key, completion_request(grant, etag))


def test_no_part_is_signed_that_the_upload_has_not(signing_store: Store) -> None:
    grant = signing_store.multipart(new_key(), len(FILE))
    assert part_refusal_code(signing_store, grant, part=2) == "part_invalid"
    assert part_refusal_code(signing_store, grant, part=1, key=new_key()) == "part_invalid"
    assert part_refusal_code(signing_store, grant, part=1, tenant="acme2") == "upload_unknown"


def part_refusal_code(
    signing_store: Store, grant: Grant, *, part: int, **overrides: Any
) -> str | None:
    tenant = overrides.get("tenant", "acme")
    item = {"key": overrides.get("key", grant.key), "part": part}
    outcome = signing_store.issue(item, tenant=tenant, kind="parts", of=grant.id)
    refusal: dict[str, str] = outcome.get("refusal") or outcome["items"][0]
    return refusal.get("code")
