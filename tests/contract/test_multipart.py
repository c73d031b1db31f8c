from collections.abc import Callable
from typing import Any

from tests.support.s3.http_requests import Request, put, send
from tests.support.s3.misuses import BOTH, SEAWEEDFS, SECRET, Misuse, each, prove
from tests.support.s3.queries import Change, changed, flipped, replaced, without
from tests.support.s3.stores import BUCKET, Store, fresh
from valetkey.wire.messages import Grant

PART = 5_242_880
FILE = b"a part, which is the last"
FORGED = b"a forgery of the same size"[: len(FILE)]


def listed(*etags: str) -> bytes:
    parts = (
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    return f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()


def completing(grant: Grant, *etags: str) -> Request:
    return Request("POST", grant.url, {"content-type": "application/xml"}, listed(*etags))


def aborting(grant: Grant) -> Request:
    assert grant.multipart is not None
    return Request("DELETE", grant.multipart.abort_url)


def stored_part(store: Store, grant: Grant, file: bytes = FILE) -> str:
    """Put the first part; what storage says it is."""
    (part,) = store.parts(grant, 1)
    answer = send(put(part, file))
    assert answer.accepted
    etag: str = answer.headers["etag"]
    return etag


def test_a_file_of_several_parts_is_stored_byte_for_byte(store: Store) -> None:
    key, file = fresh(), bytes(range(256)) * (PART // 256) + FILE
    grant = store.multipart(key, len(file))
    slices = (file[:PART], file[PART:])
    parts = store.parts(grant, 2, 1)[::-1]
    etags = [
        send(put(part, each)).headers["etag"] for part, each in zip(parts, slices, strict=True)
    ]
    assert send(completing(grant, *etags)).accepted
    assert store.stored(key)["Body"] == file


def test_an_object_of_parts_has_the_type_the_metadata_and_the_id_of_its_grant(
    store: Store,
) -> None:
    key = fresh()
    grant = store.multipart(
        key, len(FILE), content_type="image/png", metadata={"origin": "camera 7"}
    )
    assert send(completing(grant, stored_part(store, grant))).accepted
    stored = store.stored(key)
    assert stored["ContentType"] == "image/png"
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_part_may_be_sent_again(store: Store) -> None:
    key = fresh()
    grant = store.multipart(key, len(FILE))
    stored_part(store, grant, FORGED)
    assert send(completing(grant, stored_part(store, grant))).accepted
    assert store.stored(key)["Body"] == FILE


def test_after_an_abort_no_part_is_accepted(store: Store) -> None:
    grant = store.multipart(fresh(), len(FILE))
    (part,) = store.parts(grant, 1)
    assert send(aborting(grant)).accepted
    assert send(put(part, FILE)).status == 404


Make = Callable[[Store, str], Request]


def begun(store: Store, key: str) -> tuple[Grant, Grant]:
    """Another upload to the same key, and its only part."""
    grant = store.multipart(key, len(FORGED))
    return grant, store.parts(grant, 1)[0]


def part(change: Change) -> Make:
    """A part whose query is changed."""

    def request(store: Store, key: str) -> Request:
        _, one = begun(store, key)
        return Request("PUT", changed(one.url, change), one.headers, FORGED)

    return request


def part_holding(file: bytes) -> Make:
    def request(store: Store, key: str) -> Request:
        _, one = begun(store, key)
        return Request("PUT", one.url, {**one.headers, "content-length": str(len(file))}, file)

    return request


def part_copied(store: Store, key: str) -> Request:
    """Copies into the part what no link was given for."""
    _, one = begun(store, key)
    secret = fresh()
    store.store(secret, SECRET)
    return Request(
        "PUT", one.url, {**one.headers, "x-amz-copy-source": f"/{BUCKET}/{secret}"}, FORGED
    )


def part_of_another(store: Store, key: str) -> Request:
    _, one = begun(store, key)
    other, _ = begun(store, fresh())
    return Request("PUT", one.url.replace(key, other.key), one.headers, FORGED)


def part_by(method: str) -> Make:
    return lambda store, key: Request(method, begun(store, key)[1].url)


def completed(change: Change) -> Make:
    """A completion whose query is changed."""

    def request(store: Store, key: str) -> Request:
        grant, _ = begun(store, key)
        etag = stored_part(store, grant, FORGED)
        return Request("POST", changed(grant.url, change), body=listed(etag))

    return request


def completed_with(*etags: str) -> Make:
    return lambda store, key: completing(begun(store, key)[0], *etags)


def completion_by(method: str) -> Make:
    return lambda store, key: Request(method, begun(store, key)[0].url)


def abort(change: Change) -> Make:
    def request(store: Store, key: str) -> Request:
        sent = aborting(begun(store, key)[0])
        return Request(sent.method, changed(sent.url, change))

    return request


def abort_by(method: str, body: bytes | None = None) -> Make:
    return lambda store, key: Request(method, aborting(begun(store, key)[0]).url, body=body)


NOTHING = '"00000000000000000000000000000000"'
MISUSES = (
    Misuse("part one byte too large", BOTH, part_holding(FILE + b"!")),
    Misuse("part one byte too small", BOTH, part_holding(FILE[:-1])),
    Misuse("part empty", BOTH, part_holding(b"")),
    Misuse("part of another number", BOTH, part(replaced("partNumber", "2"))),
    Misuse("part of no number", BOTH, part(without("partNumber"))),
    Misuse("part of another upload", BOTH, part(flipped("uploadId"))),
    Misuse("part of no upload", BOTH, part(without("uploadId", "partNumber"))),
    Misuse("part under another key", BOTH, part_of_another),
    Misuse("part signature tampered", BOTH, part(flipped("X-Amz-Signature"))),
    Misuse("part signature removed", SEAWEEDFS, part(without("X-Amz-Signature"))),
    Misuse("part life prolonged", BOTH, part(replaced("X-Amz-Expires", "86400"))),
    Misuse("part grant id changed", BOTH, part(flipped("x-grant-id"))),
    Misuse("part used for GET", BOTH, part_by("GET")),
    Misuse("part used for DELETE", BOTH, part_by("DELETE")),
    Misuse("part copied from another object", SEAWEEDFS, part_copied),
    Misuse("completion of another upload", BOTH, completed(flipped("uploadId"))),
    Misuse("completion signature tampered", BOTH, completed(flipped("X-Amz-Signature"))),
    Misuse("completion grant id removed", BOTH, completed(without("x-grant-id"))),
    Misuse("completion without a part", SEAWEEDFS, completed_with()),
    Misuse("completion with a part that is not there", BOTH, completed_with(NOTHING)),
    Misuse("completion used for GET", BOTH, completion_by("GET")),
    Misuse("completion used for DELETE", BOTH, completion_by("DELETE")),
    Misuse("abort of another upload", BOTH, abort(flipped("uploadId"))),
    Misuse("abort of the object itself", BOTH, abort(without("uploadId"))),
    Misuse("abort signature tampered", BOTH, abort(flipped("X-Amz-Signature"))),
    Misuse("abort used for GET", BOTH, abort_by("GET")),
    Misuse("abort used for POST", BOTH, abort_by("POST", listed(NOTHING))),
)


@each(MISUSES)
def test_a_misused_upload_of_parts_stores_nothing(store: Store, misuse: Misuse) -> None:
    key = fresh()
    grant = store.multipart(key, len(FILE))
    etag = stored_part(store, grant)
    prove(store, misuse, key, completing(grant, etag))


def test_no_part_is_signed_that_the_upload_has_not(mint: Store) -> None:
    grant = mint.multipart(fresh(), len(FILE))
    assert refused(mint, grant, part=2) == "part_invalid"
    assert refused(mint, grant, part=1, key=fresh()) == "part_invalid"
    assert refused(mint, grant, part=1, tenant="acme2") == "upload_unknown"


def refused(mint: Store, grant: Grant, *, part: int, **other: Any) -> str | None:
    tenant = other.get("tenant", "acme")
    item = {"key": other.get("key", grant.key), "part": part}
    answer = mint.ask(item, tenant=tenant, kind="parts", of=grant.id)
    found: dict[str, str] = answer.get("refusal") or answer["items"][0]
    return found.get("code")
