"""The means of one run of live checks: grants, requests, verdicts, and deletion of what is left.

The grants are issued by the code that issues those of tenants. Their tenant exists only here:
nothing is read from or written to the database.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from threading import Event
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import unquote

from valetkey.signing.signers import SIGNERS
from valetkey.signing.signing_context import (
    NO_UPLOAD,
    SigningContext,
    StartedUpload,
    create_multipart_params,
    plan_parts,
)
from valetkey.signing.sigv4 import Target
from valetkey.wire.chunking import uuid7
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant
from valetkey.wire.terms import (
    MAX_EXPIRES_IN,
    AnyTerms,
    Checksum,
    Download,
    Multipart,
    Parts,
    Put,
    Upload,
)
from worker import clock
from worker.aws.object_calls import CreatedUpload, start_upload
from worker.aws.s3_clients import S3Clients
from worker.errors import Malformed, Transient
from worker.issue.chunk_signing import first_signing_context
from worker.rules.admission import admit
from worker.rules.decisions import ChunkDecider
from worker.rules.policy_rules import RequestContext
from worker.rules.storage_errors import UNREADABLE, ErrorResponse
from worker.rules.tenant_config import Bucket, Policy, Tenant, TenantConfig
from worker.shared.storage_requests import StorageRequest, StorageResponse
from worker.shared.threads import call_with_timeout

Verdict = Literal["ok", "not enforced", "not supported", "not tried", "error"]

GOOD_VERDICTS: frozenset[Verdict] = frozenset({"ok", "not tried"})

FIRST_FAILED = "the first check failed"
"""The note of checks that were not tried, as no object can be stored."""

_UNSUPPORTED_CODES = frozenset({"MethodNotAllowed", "NotImplemented", "UnsupportedOperation"})
_UNSUPPORTED_STATUSES = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


class Finding(NamedTuple):
    """The result of one check.

    grant: the kind of grant that was used.
    expected: the answer of a storage that supports and enforces everything.
    answer: storage's status and error code.
    note: storage's words, or the reason of a verdict that the answer does not explain.
    """

    grant: str
    check: str
    expected: Literal["accepted", "refused"]
    verdict: Verdict
    answer: str = ""
    note: str = ""


def describe_answer(response: StorageResponse) -> str:
    """Return the status and the error code of a response."""
    return f"{response.status} {response.code}".strip()


def judge_use(response: StorageResponse, problem: str = "") -> tuple[Verdict, str]:
    """Return the verdict on a rightful use, and a note.

    problem is what is wrong although the response is a success.
    """
    if response.is_success:
        return ("error", problem) if problem else ("ok", "")
    if response.status in _UNSUPPORTED_STATUSES or response.code in _UNSUPPORTED_CODES:
        return "not supported", response.message
    return "error", response.message or "storage refused a rightful use"


def judge_misuse(response: StorageResponse) -> tuple[Verdict, str]:
    """Return the verdict on a misuse, and a note. Only a status from 400 to 499 is a refusal."""
    if response.is_success:
        return "not enforced", ""
    if response.status == HTTPStatus.NOT_IMPLEMENTED:
        return "not supported", response.message
    if _is_refusal(response):
        return "ok", ""
    return "error", response.message or "neither a success nor a refusal"


def _is_refusal(response: StorageResponse) -> bool:
    return HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR


VERSION_HEADER = "x-amz-version-id"
"""The header in which storage names the version that a request has written."""


@dataclass
class Leftovers:
    """Object keys with the versions that storage named, and ids of uploads with their keys.

    Keys are recorded before the request that may write them: the response may never come.
    unknown_uploads are the keys of uploads whose id is not known yet.
    """

    target: Target
    versions: dict[str, set[str]] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    unknown_uploads: set[str] = field(default_factory=set)

    def key_of(self, request: StorageRequest) -> str:
        """Return the object key that a request names."""
        fields = {name: value for name, value in request.form if isinstance(value, str)}
        path = request.url.partition(self.target.host)[2].partition("?")[0]
        return fields.get("key") or unquote(path.removeprefix(self.target.prefix))

    def add_request(self, request: StorageRequest) -> Callable[[StorageResponse], None]:
        """Record the key that a request may write. Return a function to call with the response.

        It records the version that was written, or forgets a key that was not written.
        """
        if request.method in {"GET", "HEAD"}:
            return lambda _response: None
        key = self.key_of(request)
        is_new = key not in self.versions
        self.versions.setdefault(key, set())

        def add_response(response: StorageResponse) -> None:
            version = response.headers.get(VERSION_HEADER)
            if response.is_success and version:
                self.versions[key].add(version)
            if is_new and _is_refusal(response):
                self.versions.pop(key, None)

        return add_response

    def forget_uploads(self, key: str) -> None:
        """Forget the uploads of a key: they were completed."""
        self.uploads = {upload: other for upload, other in self.uploads.items() if other != key}


LIVE_TENANT = "doctor"
VALID_SECONDS = 300
CONTENT_TYPE = "text/plain"
CONTENT_TYPE_FAMILY = "video/*"
"""A family within which forms may leave the type to clients."""

MAX_SIZE = 6 * 1024**2


class ContinuedLiveUpload(NamedTuple):
    """The multipart upload that parts are requested for."""

    object_key: str
    upload: StartedUpload


class LiveGrants:
    """Issues grants in one bucket profile for a tenant that may use one prefix."""

    def __init__(self, s3: S3Clients, bucket: Bucket, prefix: str) -> None:
        self.s3 = s3
        self.bucket = bucket
        self.prefixes = (prefix,)
        self.common_terms: dict[str, Any] = {"bucket": bucket.name, "expires_in": VALID_SECONDS}
        policy = Policy(
            bucket=bucket.name,
            prefixes=self.prefixes,
            kinds=("download", "upload", "put", "multipart"),
            max_expires_in=MAX_EXPIRES_IN,
            max_size=MAX_SIZE,
            content_types=(CONTENT_TYPE, CONTENT_TYPE_FAMILY),
            overwrite=True,
        )
        self._tenant = Tenant(LIVE_TENANT, "queue", policies={bucket.name: policy})

    def issue(
        self,
        terms: AnyTerms,
        item: Item,
        start: Callable[[str], StartedUpload] | None = None,
        continued_upload: ContinuedLiveUpload | None = None,
        owner: str | None = None,
    ) -> Grant:
        """Issue a grant. Raises Malformed if the service refuses it, and Transient as it does.

        With an owner, issues it as if the bucket profile named that one. start starts the multipart
        upload of a grant, given its id.
        """
        bucket = replace(self.bucket, owner=owner) if owner else self.bucket
        admitted, context = self._context(terms, item, bucket)
        starts = start and {0: start(grant_id(admitted.message.batch, 0))}
        decider = ChunkDecider(admitted, context)
        decision = decider.decide(admitted.message, starts, continued_upload)
        (result,) = decision.results
        if "code" in result:
            raise Malformed(f"valetkey refused the grant: {result['code']}")
        return Grant(**result)

    def sign_unchecked(self, allowed: AnyTerms, terms: AnyTerms, item: Item) -> Grant:
        """Sign what the service refuses, with the credentials that sign the allowed terms."""
        admitted, context = self._context(allowed, item, self.bucket)
        sign = SIGNERS[terms.kind](terms, context)
        result, _ = sign(grant_id(admitted.message.batch, 0), item, NO_UPLOAD)
        return Grant(**result)

    def _context(
        self, terms: AnyTerms, item: Item, bucket: Bucket
    ) -> tuple[RequestContext, SigningContext]:
        now = clock.now()
        batch = uuid7(int(now.timestamp() * 1000), secrets.token_bytes(10))
        message = ChunkMessage(
            tenant=LIVE_TENANT,
            batch=batch,
            requested_by="doctor --live",
            grant=terms,
            total=1,
            items=[item],
        )
        config = TenantConfig({bucket.name: bucket}, {LIVE_TENANT: self._tenant})
        admitted = admit(message, self._tenant, config, now)
        if isinstance(admitted, Refusal):
            raise Malformed(f"valetkey refused the grant: {admitted.code}")
        context = first_signing_context(admitted, None, self.s3)
        if isinstance(context, Refusal):
            raise Malformed(f"valetkey cannot sign: {context.code}: {context.message}")
        return admitted, context


Result = TypeVar("Result")

REQUEST_SECONDS = 10.0
RUN_SECONDS = 45.0
"""The time in seconds after which no further request is sent, except for the deletion."""

BODY = b"written by python -m worker doctor --live\n"


class StepFailed(Exception):
    """A rightful step before the one that a check examines was refused."""

    def __init__(self, step: str, response: StorageResponse) -> None:
        super().__init__(step)
        self.step = step
        self.response = response


@dataclass
class Trial:
    """The context that the checks of one run share: grants, requests, the record of writes.

    Grants are issued by `grants`; `send_request` sends a request within a number of seconds.
    """

    grants: LiveGrants
    leftovers: Leftovers
    send_request: Callable[[StorageRequest, float], StorageResponse]
    started_at: float = field(default_factory=time.monotonic)
    _names: int = 0
    _calls: list[Event] = field(default_factory=list)

    def new_key(self) -> str:
        """Return an object key of the run that no other check uses."""
        self._names += 1
        return f"{self.grants.prefixes[0]}{self._names:02}.txt"

    def seconds_left(self) -> float:
        """Return the time for one request. Raises Transient if the run has taken too long."""
        left = self.started_at + RUN_SECONDS - time.monotonic()
        if left <= 0:
            raise Transient(f"not tried: the run has taken {RUN_SECONDS:.0f} s")
        return min(REQUEST_SECONDS, left)

    def send(self, request: StorageRequest) -> StorageResponse:
        """Send a request, and record what it may write. Raises Transient without a response."""
        seconds = self.seconds_left()
        add_response = self.leftovers.add_request(request)

        def call() -> StorageResponse:
            response = self.send_request(request, seconds)
            add_response(response)
            return response

        try:
            return self.call(call, seconds)
        except Transient as error:
            raise Transient(f"{request.method}: {error}") from None

    def send_delete(self, request: StorageRequest) -> StorageResponse:
        """Send a request of the deletion, which is not limited by the time of the run."""
        return self.call(lambda: self.send_request(request, REQUEST_SECONDS), REQUEST_SECONDS)

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
        deadline = time.monotonic() + seconds
        for ended in self._calls:
            ended.wait(max(0.0, deadline - time.monotonic()))

    def download(self, key: str, **terms: Any) -> Grant:
        """Issue a link."""
        return self.grants.issue(Download(**self.grants.common_terms | terms), Item(key=key))

    def put_terms(self, **terms: Any) -> Put:
        """Return the terms of a PUT that may replace an object."""
        common = {"max_size": MAX_SIZE, "content_type": CONTENT_TYPE, "overwrite": True}
        return Put(**self.grants.common_terms | common | terms)

    def put(self, key: str, checksum: Checksum | None = None, **terms: Any) -> Grant:
        """Issue a PUT of BODY."""
        item = Item(key=key, size=len(BODY), checksum=checksum)
        return self.grants.issue(self.put_terms(**terms), item)

    def upload(self, key: str, checksum: Checksum | None = None, **terms: Any) -> Grant:
        """Issue a form for 10 to 100 bytes."""
        common = {"min_size": 10, "max_size": 100, "content_type": CONTENT_TYPE}
        values = self.grants.common_terms | common | terms
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

    def start_multipart(self, key: str, size: int) -> tuple[Grant, ContinuedLiveUpload]:
        """Issue a multipart upload, which starts it. Raises StepFailed."""
        started: list[StartedUpload] = []
        terms = Multipart(
            **self.grants.common_terms,
            max_size=MAX_SIZE,
            content_type=CONTENT_TYPE,
            part_size=5 * 1024**2,
        )

        def start(grant_id: str) -> StartedUpload:
            plan = plan_parts(size, terms.part_size)
            if plan is None:
                raise Malformed("S3 allows no upload of this size")
            params = create_multipart_params(terms, grant_id)
            started.append(StartedUpload(self._create_upload(key, params), plan))
            return started[0]

        grant = self.grants.issue(terms, Item(key=key, size=size), start)
        return grant, ContinuedLiveUpload(key, started[0])

    def part(self, grant: Grant, upload: ContinuedLiveUpload, number: int) -> Grant:
        """Issue the PUT of one part."""
        terms = Parts(**self.grants.common_terms, of=grant.id)
        item = Item(key=grant.key, part=number)
        return self.grants.issue(terms, item, continued_upload=upload)

    def _create_upload(self, key: str, params: dict[str, Any]) -> str:
        grants, leftovers, seconds = self.grants, self.leftovers, self.seconds_left()
        client = grants.s3.client(grants.bucket, LIVE_TENANT, grants.prefixes, clock.now())
        leftovers.versions.setdefault(key, set())  # completing the upload will write it
        leftovers.unknown_uploads.add(key)

        def call() -> CreatedUpload | ErrorResponse:
            created = start_upload(client, grants.bucket.bucket, key, params)
            if isinstance(created, CreatedUpload):
                leftovers.uploads[created.upload_id] = key
            if created != UNREADABLE:
                leftovers.unknown_uploads.discard(key)
            return created

        created = self.call(call, seconds)
        if isinstance(created, CreatedUpload):
            return created.upload_id
        body = f"<Error><Code>{created.code}</Code><Message>{created.message}</Message></Error>"
        response = StorageResponse(created.status, {}, body.encode())
        raise StepFailed("starting the upload", response)


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


FormFields = Iterable[tuple[str, str | bytes]]


def without_parameters(url: str, *names: str) -> str:
    """Remove parameters of the query by name; a name that ends in `*` is a prefix."""
    path, _, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair and not _is_named(pair, names)]
    return f"{path}?{'&'.join(kept)}" if kept else path


def with_parameter(url: str, name: str, value: str) -> str:
    """Replace or append a parameter of the query."""
    rest = without_parameters(url, name)
    return f"{rest}{'&' if '?' in rest else '?'}{name}={value}"


def with_changed_signature(url: str) -> str:
    """Change the last character of the signature of a URL."""
    _, _, signature = url.partition("X-Amz-Signature=")
    signature = signature.partition("&")[0]
    return with_parameter(url, "X-Amz-Signature", change_last(signature))


def change_last(text: str) -> str:
    """Replace the last character of a text by another digit."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def with_field(form: FormFields, name: str, value: str) -> list[tuple[str, str | bytes]]:
    """Replace a field of a form, or add it before the file."""
    fields = [(field, old) for field, old in form if field.lower() != name.lower()]
    return [*fields[:-1], (name, value), fields[-1]]


def _is_named(pair: str, names: Iterable[str]) -> bool:
    name = pair.partition("=")[0]
    return any(
        name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted for wanted in names
    )
