"""The means of one run of live checks: grants, requests, and a record of what was written."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from valetkey.wire.messages import Item
from valetkey.wire.replies import Grant
from valetkey.wire.terms import Checksum, Download, Multipart, Parts, Put, Upload
from worker.core.signing.multipart_plan import StartedUpload, plan_parts
from worker.core.signing.sigv4 import Target
from worker.core.signing.storage_headers import create_multipart_params
from worker.errors import Malformed, Transient
from worker.jobs.timeouts import call_with_timeout
from worker.net.storage_requests import StorageRequest, StorageResponse
from worker.usecases.live_checks.findings import Outcome
from worker.usecases.live_checks.grants import (
    CONTENT_TYPE,
    MAX_SIZE,
    ContinuedLiveUpload,
    LiveGrants,
)
from worker.usecases.live_checks.leftovers import Leftovers

Result = TypeVar("Result")

REQUEST_SECONDS = 10.0
RUN_SECONDS = 45.0
"""The time in seconds after which no further request is sent, except for the deletion."""

VALID_SECONDS = 300
BODY = b"written by python -m worker doctor --live\n"


class StepFailed(Exception):
    """A rightful step before the one that a check examines was refused."""

    def __init__(self, step: str, response: StorageResponse) -> None:
        super().__init__(step)
        self.step = step
        self.response = response


@dataclass
class Probe:
    """The context that the checks of one run share: grants, requests, the record of writes.

    Grants are issued by `grants`; `send_request` sends a request within a number of seconds.
    """

    grants: LiveGrants
    target: Target
    send_request: Callable[[StorageRequest, float], StorageResponse]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    leftovers: Leftovers = field(default_factory=Leftovers)
    started_at: float = field(init=False)
    _names: int = 0
    _calls: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    def new_key(self) -> str:
        """Return an object key of the run that no other check uses."""
        self._names += 1
        return f"{self.grants.prefixes[0]}{self._names:02}.txt"

    def seconds_left(self) -> float:
        """Return the time for one request. Raises Transient if the run has taken too long."""
        left = self.started_at + RUN_SECONDS - self.clock()
        if left <= 0:
            raise Transient(f"not tried: the run has taken {RUN_SECONDS:.0f} s")
        return min(REQUEST_SECONDS, left)

    def send(self, request: StorageRequest) -> StorageResponse:
        """Send a request, and record what it may write. Raises Transient without a response."""
        seconds = self.seconds_left()
        write = self.leftovers.add_request(request, self.target)

        def call() -> StorageResponse:
            response = self.send_request(request, seconds)
            self.leftovers.add_response(write, response)
            return response

        try:
            return self.call(call, seconds)
        except Transient as error:
            raise Transient(f"{request.method}: {error}") from None

    def send_delete(self, request: StorageRequest) -> StorageResponse:
        """Send a request of the deletion, which is not limited by the time of the run."""
        seconds = REQUEST_SECONDS
        return self.call(lambda: self.send_request(request, seconds), seconds)

    def call(self, function: Callable[[], Result], seconds: float) -> Result:
        """Call a function in a thread. Raises Transient if it takes too long."""
        ended = Event()
        self._calls.append(ended)

        def run() -> Result:
            try:
                return function()
            finally:
                ended.set()

        try:
            return call_with_timeout(seconds, run)
        except TimeoutError:
            raise Transient(f"no response within {seconds:.0f} s") from None

    def wait_for_calls(self, seconds: float) -> None:
        """Wait for calls that were abandoned: what they write can be deleted only afterwards."""
        deadline = self.clock() + seconds
        for ended in self._calls:
            ended.wait(max(0.0, deadline - self.clock()))

    def download(self, key: str, **terms: Any) -> Grant:
        """Issue a link."""
        values = {"bucket": self.grants.bucket.name, "expires_in": VALID_SECONDS, **terms}
        return self.grants.issue(Download(**values), Item(key=key))

    def put_terms(self, **terms: Any) -> Put:
        """Return the terms of a PUT that may replace an object."""
        common = {"max_size": MAX_SIZE, "content_type": CONTENT_TYPE, "overwrite": True}
        bucket = self.grants.bucket.name
        return Put(**{"bucket": bucket, "expires_in": VALID_SECONDS, **common, **terms})

    def put(self, key: str, checksum: Checksum | None = None, **terms: Any) -> Grant:
        """Issue a PUT of BODY."""
        item = Item(key=key, size=len(BODY), checksum=checksum)
        return self.grants.issue(self.put_terms(**terms), item)

    def upload(self, key: str, checksum: Checksum | None = None, **terms: Any) -> Grant:
        """Issue a form for 10 to 100 bytes."""
        common = {"min_size": 10, "max_size": 100, "content_type": CONTENT_TYPE}
        bucket = self.grants.bucket.name
        values = {"bucket": bucket, "expires_in": VALID_SECONDS, **common, **terms}
        return self.grants.issue(Upload(**values), Item(key=key, checksum=checksum))

    def store(self) -> str:
        """Store BODY with a grant, and return its key. Raises StepFailed."""
        key = self.new_key()
        self.require("storing an object", self.send(put_request(self.put(key))))
        return key

    def require(self, step: str, response: StorageResponse) -> StorageResponse:
        """Return a successful response. Raises StepFailed for another one."""
        if not response.is_success:
            raise StepFailed(step, response)
        return response

    def read_back(self, written: StorageResponse, key: str, body: bytes) -> Outcome:
        """Compare the object under a key with the bytes that were written."""
        if not written.is_success:
            return Outcome(written)
        stored = self.send(get_request(self.download(key)))
        same = stored.is_success and stored.body == body
        return Outcome(written, "" if same else "the stored object has other bytes")

    def start_multipart(self, key: str, size: int) -> tuple[Grant, ContinuedLiveUpload]:
        """Issue a multipart upload, which starts it. Raises StepFailed."""
        started: list[StartedUpload] = []
        terms = Multipart(
            bucket=self.grants.bucket.name,
            expires_in=VALID_SECONDS,
            max_size=MAX_SIZE,
            content_type=CONTENT_TYPE,
            part_size=5 * 1024**2,
        )

        def start(grant_id: str, item: Item) -> StartedUpload:
            plan = plan_parts(size, terms.part_size)
            if plan is None:
                raise Malformed("S3 allows no upload of this size")
            params = create_multipart_params(terms, grant_id)
            started.append(StartedUpload(self._create_upload(item.key, params), plan))
            return started[0]

        grant = self.grants.issue(terms, Item(key=key, size=size), start)
        return grant, ContinuedLiveUpload(key, started[0])

    def part(self, grant: Grant, upload: ContinuedLiveUpload, number: int) -> Grant:
        """Issue the PUT of one part."""
        bucket = self.grants.bucket.name
        terms = Parts(bucket=bucket, expires_in=VALID_SECONDS, of=grant.id)
        item = Item(key=grant.key, part=number)
        return self.grants.issue(terms, item, continued_upload=upload)

    def _create_upload(self, key: str, params: dict[str, Any]) -> str:
        client, bucket, leftovers = self.grants.client(), self.grants.bucket.bucket, self.leftovers
        seconds = self.seconds_left()
        leftovers.versions.setdefault(key, set())  # completing the upload will write it
        leftovers.unknown_uploads.add(key)

        def call() -> str:
            try:
                response = client.create_multipart_upload(Bucket=bucket, Key=key, **params)
            except ClientError:
                leftovers.unknown_uploads.discard(key)
                raise
            upload_id: str = response["UploadId"]
            leftovers.uploads[upload_id] = key
            leftovers.unknown_uploads.discard(key)
            return upload_id

        try:
            return self.call(call, seconds)
        except ClientError as error:
            raise StepFailed("starting the upload", _error_response(error)) from None
        except (BotoCoreError, KeyError) as error:
            raise Transient(f"starting the upload: {type(error).__name__}") from None


def _error_response(error: ClientError) -> StorageResponse:
    details = error.response
    status = details.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code, message = (str(details.get("Error", {}).get(name, "")) for name in ("Code", "Message"))
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return StorageResponse(status, {}, body.encode())


def get_request(grant: Grant) -> StorageRequest:
    """Return the request that uses a link."""
    return StorageRequest(grant.method, grant.url, grant.headers)


def put_request(
    grant: Grant, body: bytes = BODY, headers: Mapping[str, str] = {}
) -> StorageRequest:
    """Return the request that uses a PUT, with further headers."""
    sent = {**grant.headers, "content-length": str(len(body)), **headers}
    return StorageRequest("PUT", grant.url, sent, body)


def form_request(grant: Grant, body: bytes = BODY) -> StorageRequest:
    """Return the request that posts a form with a file."""
    return StorageRequest("POST", grant.url, form=[*grant.fields.items(), ("file", body)])
