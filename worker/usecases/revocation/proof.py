"""Proves a revocation: uses one of the links before and after, as its holder would."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from worker.context import Context
from worker.core.revocation.targets import LiveGrant
from worker.errors import Transient
from worker.net.storage_requests import StorageConnection, StorageRequest
from worker.usecases.reissue import reissue_chunk_by_number

_SECONDS = 5.0
_FORBIDDEN = 403
_PROOF_SECONDS = 20.0  # S3 applies a policy within seconds
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ProofLink:
    """A link of a grant that is about to be revoked, and storage's status before it was."""

    grant: LiveGrant
    request: StorageRequest
    endpoint: str | None
    status_before: int


def take_proof_link(grants: Iterable[LiveGrant], context: Context) -> ProofLink | None:
    """Sign and use the link of a download among the grants, or return None if there is none.

    An upload proves nothing without storing an object. Only the first byte is requested. Raises
    Transient.
    """
    grant = next((grant for grant in grants if grant.kind == "download"), None)
    if grant is None:
        return None
    decision = reissue_chunk_by_number(grant.batch_number, grant.chunk_number, context)
    results = (result for result in decision.results if result.get("id") == grant.id)
    signed = next(results, None)
    if signed is None or "url" not in signed:
        return None  # today's policy refuses it already
    request = _request(signed)
    endpoint = context.s3.internal_endpoint(context.config.current().buckets[grant.bucket])
    return ProofLink(grant, request, endpoint, _use(request, endpoint))


def is_refused(link: ProofLink) -> bool:
    """Return whether storage refuses a link now, or within the time that policies take.

    Raises Transient.
    """
    end = time.monotonic() + _PROOF_SECONDS
    while _use(link.request, link.endpoint) != _FORBIDDEN:
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _request(signed: dict[str, Any]) -> StorageRequest:
    headers = {**signed.get("headers", {}), "range": "bytes=0-0"}
    return StorageRequest(signed.get("method", "GET"), signed["url"], headers)


def _use(request: StorageRequest, endpoint: str | None) -> int:
    connection = StorageConnection()
    try:
        return connection.send(request, _SECONDS, endpoint).status
    except Transient as error:
        raise Transient(f"the link could not be tried: {error}") from None
    finally:
        connection.close()
