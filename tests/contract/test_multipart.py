from dataclasses import replace

from tests.support.s3.http_requests import Request, completion, completion_body, put, send
from tests.support.s3.misuses import (
    BOTH,
    SEAWEEDFS,
    MakeRequest,
    Misuse,
    change_request,
    check_misuse,
    parametrize_misuses,
    remove_parameters,
    replace_parameter,
    tamper_parameter,
)
from tests.support.s3.stores import Store, new_key
from valetkey.wire.replies import Grant

PART = 5_242_880
FILE = b"a part, which is the last"
FORGED = b"a forgery of the same size"[: len(FILE)]


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
    assert send(completion(grant, *etags)).is_success
    assert store.get_object(key)["Body"] == file


def test_an_object_of_parts_has_the_type_the_metadata_and_the_id_of_its_grant(store: Store) -> None:
    key = new_key()
    grant = store.multipart(
        key, len(FILE), content_type="image/png", metadata={"origin": "camera 7"}
    )
    assert send(completion(grant, upload_part(store, grant))).is_success
    stored = store.get_object(key)
    assert stored["ContentType"] == "image/png"
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def start_upload(store: Store, key: str) -> tuple[Grant, Grant]:
    """Start another upload to the key; return its grant and that of its only part."""
    grant = store.multipart(key, len(FORGED))
    return grant, store.parts(grant, 1)[0]


def part(store: Store, key: str) -> Request:
    return put(start_upload(store, key)[1], FORGED)


def completed(store: Store, key: str) -> Request:
    grant, _ = start_upload(store, key)
    return completion(grant, upload_part(store, grant, FORGED))


def abort(store: Store, key: str) -> Request:
    multipart = start_upload(store, key)[0].multipart
    assert multipart is not None
    return Request("DELETE", multipart.abort_url)


def part_with_file(file: bytes) -> MakeRequest:
    def request(store: Store, key: str) -> Request:
        original = part(store, key)
        headers = {**original.headers, "content-length": str(len(file))}
        return replace(original, headers=headers, body=file)

    return request


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
            ("completion", completed, COMPLETION_CHANGES),
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
        for name, make in (("part", part), ("completion", completed))
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
    Misuse(
        "completion without a part", SEAWEEDFS, change_request(completed, body=completion_body())
    ),
    Misuse(
        "completion with a part that is not there",
        BOTH,
        change_request(completed, body=completion_body(UNKNOWN_ETAG)),
    ),
)


@parametrize_misuses(MISUSES)
def test_a_misused_upload_of_parts_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = new_key()
    grant = store.multipart(key, len(FILE))
    etag = upload_part(store, grant)
    check_misuse(store, misuse, key, completion(grant, etag))
