"""An object that is stored by a multipart upload, completed at its end or aborted."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar, cast

from sqlalchemy import Connection

from worker import clock
from worker.aws.object_calls import abort_upload, start_upload
from worker.aws.s3_clients import S3Clients
from worker.aws.storage_calls import call_storage
from worker.errors import Malformed, Transient
from worker.ledger.tenant_rows import load_config
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket
from worker.settings import Settings
from worker.shared.object_files import find_grant_id

PART_BYTES = 16 * 2**20
_MAX_PARTS = 10_000  # AWS: qfacts.html; parts grow, so that their number suffices for 5 TiB
_PARTS_PER_SIZE = 500
_EXISTS = "PreconditionFailed"
_IS_TAKEN = "an object has this key, or that of its manifest: name another one, or add --force"
_SESSION = "audit-export"  # the name of a role's session in storage's logs
_Response = TypeVar("_Response")


class _PartStream:
    """A stream that sends its bytes in parts."""

    def __init__(self, client: Any, bucket: Bucket, key: str, upload_id: str) -> None:
        self._client = client
        self.upload_params = {"Bucket": bucket.bucket, "Key": key, "UploadId": upload_id}
        self._buffer = bytearray()
        self.parts: list[dict[str, Any]] = []

    def write(self, data: bytes) -> int:
        """Add bytes, and send a part if there are enough."""
        self._buffer += data
        while len(self._buffer) >= self._part_bytes():
            size = self._part_bytes()
            self._send(bytes(self._buffer[:size]))
            del self._buffer[:size]
        return len(data)

    def flush(self) -> None:
        """Do nothing: only the last part may be small."""

    def send_last(self) -> None:
        """Send what is left. An upload has at least one part, even if it is empty."""
        if self._buffer or not self.parts:
            self._send(bytes(self._buffer))

    def _part_bytes(self) -> int:
        return PART_BYTES * (1 + len(self.parts) // _PARTS_PER_SIZE)

    def _send(self, data: bytes) -> None:
        number = len(self.parts) + 1
        if number > _MAX_PARTS:
            raise Malformed("the export has too many bytes for one object")
        response = _require(
            call_storage(
                self._client.upload_part, PartNumber=number, Body=data, **self.upload_params
            )
        )
        self.parts.append({"PartNumber": number, "ETag": response["ETag"]})


@contextmanager
def open_object(
    connection: Connection, profile: str, key: str, *, may_replace: bool
) -> Iterator[IO[bytes]]:
    """Open a new object for writing, with the credentials of its bucket profile.

    The object appears at the end of the block. If the block raises, the upload is aborted. Raises
    Malformed if there is no such profile, if another object has the key and may not be replaced,
    or if storage refuses; and Transient if it does not answer.
    """
    bucket = load_config(connection).buckets.get(profile)
    if bucket is None:
        raise Malformed(f"there is no bucket profile {profile!r}")
    clients = S3Clients.from_settings(Settings())

    def client() -> Any:  # anew for each step, because credentials expire
        return clients.client(bucket, _SESSION, (key,), clock.now())

    if not may_replace and find_grant_id(client(), bucket.bucket, key) is not None:
        raise Malformed(_IS_TAKEN)
    started = _require(start_upload(client(), bucket.bucket, key, {}))
    stream = _PartStream(client(), bucket, key, started.upload_id)
    try:
        yield cast("IO[bytes]", stream)
        stream.send_last()
        is_conditional = not may_replace and bucket.conditional_writes
        _require(
            call_storage(
                client().complete_multipart_upload,
                **stream.upload_params,
                MultipartUpload={"Parts": stream.parts},
                **({"IfNoneMatch": "*"} if is_conditional else {}),
            )
        )
    except BaseException:  # KeyboardInterrupt included
        with suppress(Transient):
            abort_upload(client(), bucket.bucket, key, started.upload_id)
        raise


def _require(response: _Response | ErrorResponse) -> _Response:
    if not isinstance(response, ErrorResponse):
        return response
    if response.code == _EXISTS:
        raise Malformed(_IS_TAKEN)
    raise Malformed(f"storage refuses it: {response.words}")
