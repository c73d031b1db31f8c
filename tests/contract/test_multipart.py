from dataclasses import replace
from typing import Any

from tests.support.s3.http_requests import Request, put, send
from tests.support.s3.misuses import (
    BOTH,
    SEAWEEDFS,
    SECRET,
    MakeRequest,
    Misuse,
    change_request,
    check_misuse,
    parametrize_misuses,
)
from tests.support.s3.queries import remove_parameters, replace_parameter, tamper_parameter
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


def start_upload(store: Store, key: str) -> tuple[Grant, Grant]:
    """Start another upload to the key; return its grant and that of its only part."""
    grant = store.multipart(key, len(FORGED))
    return grant, store.parts(grant, 1)[0]


def part(store: Store, key: str) -> Request:
    return put(start_upload(store, key)[1], FORGED)


def completion(store: Store, key: str) -> Request:
    grant, _ = start_upload(store, key)
    return completion_request(grant, upload_part(store, grant, FORGED))


def abort(store: Store, key: str) -> Request:
    return abort_request(start_upload(store, key)[0])


def part_with_file(file: bytes) -> MakeRequest:
    def request(store: Store, key: str) -> Request:
        original = part(store, key)
        headers = {**original.headers, "content-length": str(len(file))}
        return replace(original, headers=headers, body=file)

    return request


def part_copied_from_another_object(store: Store, key: str) -> Request:
    """Copy an object for which there is no grant into the part."""
    secret, original = new_key(), part(store, key)
    store.put_object(secret, SECRET)
    source = {"x-amz-copy-source": f"/{BUCKET}/{secret}"}
    return replace(original, headers={**original.headers, **source})


def part_under_another_key(store: Store, key: str) -> Request:
    other, _ = start_upload(store, new_key())
    original = part(store, key)
    return replace(original, url=original.url.replace(key, other.key))


UNKNOWN_ETAG = '"00000000000000000000000000000000"'
PART_CHANGES = {
    "of another number": replace_parameter("partNumber", "2"),
    "of no number": remove_parameters("partNumber"),
    "of another upload": tamper_parameter("uploadId"),
    "of no upload": remove_parameters("uploadId", "partNumber"),
    "signature tampered": tamper_parameter("X-Amz-Signature"),
    "life prolonged": replace_parameter("X-Amz-Expires", "86400"),
    "grant id changed": tamper_parameter("x-grant-id"),
}
COMPLETION_CHANGES = {
    "of another upload": tamper_parameter("uploadId"),
    "signature tampered": tamper_parameter("X-Amz-Signature"),
    "grant id removed": remove_parameters("x-grant-id"),
}
ABORT_CHANGES = {
    "of another upload": tamper_parameter("uploadId"),
    "of the object itself": remove_parameters("uploadId"),
    "signature tampered": tamper_parameter("X-Amz-Signature"),
}
MISUSES = (
    *(
        Misuse(f"{name} {label}", BOTH, change_request(make, change))
        for name, make, changes in (
            ("part", part, PART_CHANGES),
            ("completion", completion, COMPLETION_CHANGES),
            ("abort", abort, ABORT_CHANGES),
        )
        for label, change in changes.items()
    ),
    *(
        Misuse(
            f"{name} used for {method}",
            BOTH,
            change_request(make, method=method, headers={}, body=None),
        )
        for name, make in (("part", part), ("completion", completion))
        for method in ("GET", "DELETE")
    ),
    Misuse("abort used for GET", BOTH, change_request(abort, method="GET")),
    Misuse(
        "abort used for POST",
        BOTH,
        change_request(abort, method="POST", body=completion_body(UNKNOWN_ETAG)),
    ),
    Misuse("part one byte too large", BOTH, part_with_file(FILE + b"!")),
    Misuse("part one byte too small", BOTH, part_with_file(FILE[:-1])),
    Misuse("part empty", BOTH, part_with_file(b"")),
    Misuse(
        "part signature removed",
        SEAWEEDFS,
        change_request(part, remove_parameters("X-Amz-Signature")),
    ),
    Misuse("part under another key", BOTH, part_under_another_key),
    Misuse("part copied from another object", SEAWEEDFS, part_copied_from_another_object),
    Misuse(
        "completion without a part", SEAWEEDFS, change_request(completion, body=completion_body())
    ),
    Misuse(
        "completion with a part that is not there",
        BOTH,
        change_request(completion, body=completion_body(UNKNOWN_ETAG)),
    ),
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
