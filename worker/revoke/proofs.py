"""Proves revocations: storage refuses a request afterwards that it answered before."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Literal, NamedTuple

from valetkey.signing.signing_context import Validity
from worker.context import Context
from worker.errors import Transient
from worker.revoke.kept_statements import SESSION_NAME, is_denied
from worker.revoke.levers import Denial, Lever
from worker.revoke.revocation_plan import RevocationPlan
from worker.revoke.revocation_targets import LiveGrant
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket
from worker.shared.storage_requests import StorageConnection, StorageRequest
from worker.shared.stored_files import FileReader, StoredFile

Proof = Literal["proven", "repeated", "accepted", "untried"]
"""The result for one bucket or role.

proven: storage served a request before, and refuses it now. repeated: an earlier revocation denied
its object, and storage refused it before and now. accepted: it still serves it. untried: it served
none before, so that a refusal now proves nothing.
"""

USER_AGENT = "valetkey-revocation-proof"
_VALID_SECONDS = 300
_REQUEST_SECONDS = 5.0
_SERVED = {200, 206, 416}  # 416: an empty object has no first byte
_FORBIDDEN = 403
_LINK_SECONDS = 20.0  # S3 applies a policy within seconds
_SESSION_SECONDS = 60.0  # IAM applies a policy within seconds, and sometimes in a few minutes
_FIND_SECONDS = 5.0  # in which storage has to answer before the denial, which must not wait
_POLL_SECONDS = 0.5
_MAX_TRIALS = 3


class Trial(NamedTuple):
    """A request for an object, which storage answered or, if was_refused, did not allow before.

    send repeats it, and returns refusal if storage refuses it. Raises Transient if storage does not
    answer. seconds is the time that storage may take until it refuses it.
    """

    object_key: str
    send: Callable[[], object]
    refusal: object
    seconds: float
    was_refused: bool = False


def provable_grants(lever: Lever, plan: RevocationPlan) -> list[LiveGrant]:
    """Return the downloads that can prove what a lever did.

    The request for the end of a role's sessions is signed in its headers: on AWS, no statement in
    the policy of the bucket denies it, and so its refusal is that of the role. On other storage,
    the statement would refuse it.
    """
    provable = lever.targets
    if not isinstance(lever, Denial):
        provable = provable.difference(*(each.targets for each in plan.denials if not each.is_aws))
    return [
        grant for grant in plan.targeted if grant.kind == "download" and grant.full_id in provable
    ]


def find_trial(
    lever: Lever, grants: Iterable[LiveGrant], plan: RevocationPlan, context: Context
) -> Trial | None:
    """Return a request for the object of one of these downloads that storage answers now, or None.

    An upload would prove nothing without storing an object. Raises Transient and Malformed.
    """
    if isinstance(lever, Denial):
        keys = list(dict.fromkeys(grant.object_key for grant in grants))  # in order, and each once
        return _find_link(lever.profile, keys, context)
    objects = dict.fromkeys((grant.bucket, grant.object_key) for grant in grants)
    end = time.monotonic() + _FIND_SECONDS
    for profile, object_key in list(objects)[:_MAX_TRIALS]:
        bucket = plan.config.buckets[profile]
        client = context.s3.client(bucket, SESSION_NAME, (object_key,), context.now())
        send = partial(FileReader(client, bucket).find, object_key)
        if isinstance(_get_answer(send, end), StoredFile):
            return Trial(object_key, send, "hidden", _SESSION_SECONDS)
    return None


def _find_link(bucket: Bucket, object_keys: Sequence[str], context: Context) -> Trial | None:
    """Return a link that storage serves now; if it serves none, one that it refuses.

    It is signed with the credentials that sign grants, and has no grant id and a user agent of its
    own: the import of access logs takes it for nobody's download. Only the first byte is requested.
    """
    endpoint, end = context.s3.internal_endpoint(bucket), time.monotonic() + _FIND_SECONDS
    refused = None
    for object_key in object_keys[:_MAX_TRIALS]:
        send = partial(_use_link, _sign_link(bucket, object_key, context), endpoint)
        trial = Trial(object_key, send, _FORBIDDEN, _LINK_SECONDS)
        status = _get_answer(send, end)
        if status in _SERVED:
            return trial
        if status == _FORBIDDEN:
            refused = trial._replace(was_refused=True)
    return refused


def _sign_link(bucket: Bucket, object_key: str, context: Context) -> StorageRequest:
    now = context.now().replace(microsecond=0)
    credentials = context.s3.credentials(bucket, SESSION_NAME, (object_key,), now, timedelta(0))
    validity = Validity(now, _VALID_SECONDS, "request")
    signer = context.s3.signing_context(bucket, credentials, validity).signer_for("GET")
    headers = {"range": "bytes=0-0", "user-agent": USER_AGENT}
    return StorageRequest("GET", signer.sign(object_key).url, headers)


def _use_link(link: StorageRequest, endpoint: str | None) -> int:
    """Send a link to an endpoint, None for its own host; return the status.

    Raises Transient if storage does not answer. A temporary error is no answer.
    """
    with closing(StorageConnection()) as connection:
        try:
            answer = ErrorResponse(connection.send(link, _REQUEST_SECONDS, endpoint).status)
        except Transient as error:
            raise Transient(f"storage did not answer a link: {error}") from None
    if answer.is_transient:
        raise Transient(f"storage did not answer a link: {answer.words}")
    return answer.status


def _get_answer(send: Callable[[], object], end: float) -> object:
    """Send a request until storage answers it. Raises Transient if it has not at the end."""
    while True:
        try:
            return send()
        except Transient:
            if time.monotonic() >= end:
                raise
        time.sleep(_POLL_SECONDS)


def prove(trial: Trial | None, lever: Lever, plan: RevocationPlan) -> Proof:
    """Repeat the request until storage refuses it, or its time is over. Raises Transient."""
    if trial is None:
        return "untried"
    if trial.was_refused and not (
        isinstance(lever, Denial) and is_denied(trial.object_key, lever, plan.live_denials)
    ):
        return "untried"
    end = time.monotonic() + trial.seconds
    while _get_answer(trial.send, end) != trial.refusal:
        if time.monotonic() >= end:
            return "accepted"
        time.sleep(_POLL_SECONDS)
    return "repeated" if trial.was_refused else "proven"
