"""Proves a denial: uses a link to one of the denied objects before it and after it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from worker.context import Context
from worker.core.revocation.targets import LiveGrant
from worker.core.signing.validity import Validity
from worker.core.tenants.config import Bucket
from worker.errors import Transient
from worker.net.storage_requests import StorageConnection, StorageRequest
from worker.usecases.revocation.statements import SESSION

Proof = Literal["proven", "repeated", "accepted", "untried"]
"""The result for one bucket.

proven: storage served a link before the denial, and refuses it now. repeated: an earlier revocation
denied its object, and storage refused it before and now. accepted: it still serves it. untried:
it served none before, so that a refusal now proves nothing.
"""

USER_AGENT = "valetkey-revocation-proof"
_VALID_SECONDS = 300
_SECONDS = 5.0
_SERVED = {200, 206, 416}  # 416: an empty object has no first byte
_FORBIDDEN = 403
_PROOF_SECONDS = 20.0  # S3 applies a policy within seconds
_POLL_SECONDS = 0.5
_MAX_CANDIDATES = 3


@dataclass(frozen=True, slots=True)
class ProofLink:
    """A link that storage served or, if is_refused, did not allow before the denial.

    endpoint is where the request goes, if not to the link's host.
    """

    object_key: str
    request: StorageRequest
    endpoint: str | None
    is_refused: bool = False


def find_proof_link(
    bucket: Bucket, grants: Iterable[LiveGrant], context: Context
) -> ProofLink | None:
    """Return a link to the object of one of these downloads that storage serves now, or None.

    If it serves none of them, return one that it refuses. It is signed with the credentials that
    sign grants, and has no grant id and a user agent of its own: the import of access logs takes it
    for nobody's download. Only the first byte is requested. An upload would prove nothing without
    storing an object. Raises Transient and Malformed.
    """
    keys = dict.fromkeys(grant.object_key for grant in grants)  # in order, and each once
    endpoint = context.s3.internal_endpoint(bucket)
    refused = None
    for object_key in list(keys)[:_MAX_CANDIDATES]:
        link = ProofLink(object_key, _sign(bucket, object_key, context), endpoint)
        status = _use(link)
        if status in _SERVED:
            return link
        if status == _FORBIDDEN:
            refused = replace(link, is_refused=True)
    return refused


def prove_denial(link: ProofLink | None, *, is_repeated: bool) -> Proof:
    """Return the proof of a denial; is_repeated, if an earlier one denied the link's object.

    Raises Transient.
    """
    if link is None or (link.is_refused and not is_repeated):
        return "untried"
    proof = prove(link)
    return "repeated" if link.is_refused and proof == "proven" else proof


def prove(link: ProofLink) -> Proof:
    """Use a link until storage refuses it, or the time that policies take is over.

    Raises Transient.
    """
    return await_refusal(lambda: _use(link) == _FORBIDDEN, _PROOF_SECONDS)


def await_refusal(is_refused: Callable[[], bool], seconds: float) -> Proof:
    """Repeat a request until storage refuses it, or a time is over."""
    end = time.monotonic() + seconds
    while not is_refused():
        if time.monotonic() >= end:
            return "accepted"
        time.sleep(_POLL_SECONDS)
    return "proven"


def _sign(bucket: Bucket, object_key: str, context: Context) -> StorageRequest:
    now = context.now().replace(microsecond=0)
    credentials = context.s3.credentials(bucket, SESSION, (object_key,), now, timedelta(0))
    validity = Validity(now, _VALID_SECONDS, "request")
    signer = context.s3.signing_context(bucket, credentials, validity).signer_for("GET")
    headers = {"range": "bytes=0-0", "user-agent": USER_AGENT}
    return StorageRequest("GET", signer.sign(object_key).url, headers)


def _use(link: ProofLink) -> int:
    connection = StorageConnection()
    try:
        return connection.send(link.request, _SECONDS, link.endpoint).status
    except Transient as error:
        raise Transient(f"a link could not be tried: {error}") from None
    finally:
        connection.close()
