"""Grants for the live checks, by the code that issues those of tenants.

The tenant exists only here: nothing is read from or written to the database.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from valetkey.wire.chunking import uuid7
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant
from valetkey.wire.terms import MAX_EXPIRES_IN, AnyTerms
from worker.aws.clients import S3Clients
from worker.core.kinds.registry import grant_kind
from worker.core.policy.admission import admit
from worker.core.policy.decide import StartUpload, decide_chunk, start_no_upload
from worker.core.policy.decisions import ChunkRequest
from worker.core.signing.context import SigningContext
from worker.core.signing.multipart_plan import NO_UPLOAD, StartedUpload
from worker.core.tenants.config import Bucket, Policy, Tenant, TenantConfig
from worker.errors import Malformed
from worker.usecases.signing_context import first_signing_context

TENANT = "doctor"
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

    def __init__(
        self, s3: S3Clients, bucket: Bucket, prefix: str, now: Callable[[], datetime]
    ) -> None:
        self._s3 = s3
        self._now = now
        self.bucket = bucket
        self.prefixes = (prefix,)
        policy = Policy(
            bucket=bucket.name,
            prefixes=self.prefixes,
            kinds=("download", "upload", "put", "multipart"),
            max_expires_in=MAX_EXPIRES_IN,
            max_size=MAX_SIZE,
            content_types=(CONTENT_TYPE, CONTENT_TYPE_FAMILY),
            overwrite=True,
        )
        self._tenant = Tenant(TENANT, "queue", policies={bucket.name: policy})

    def issue(
        self,
        terms: AnyTerms,
        item: Item,
        start_upload: StartUpload = start_no_upload,
        continued_upload: ContinuedLiveUpload | None = None,
    ) -> Grant:
        """Issue a grant. Raises Malformed if the service refuses it, and Transient as it does."""
        message, context, admission = self._context(terms, item, self.bucket)
        decision = decide_chunk(message, admission, context, start_upload, continued_upload)
        (result,) = decision.results
        if "code" in result:
            raise Malformed(f"valetkey refused the grant: {result['code']}")
        return Grant(**result)

    def issue_for_owner(self, terms: AnyTerms, item: Item, owner: str) -> Grant:
        """Issue a grant as if the bucket profile named another owner."""
        bucket = replace(self.bucket, owner=owner)
        message, context, admission = self._context(terms, item, bucket)
        decision = decide_chunk(message, admission, context, start_no_upload, None)
        return Grant(**decision.results[0])

    def sign_unchecked(self, allowed: AnyTerms, terms: AnyTerms, item: Item) -> Grant:
        """Sign what the service refuses, with the credentials that sign the allowed terms."""
        message, context, _ = self._context(allowed, item, self.bucket)
        sign = grant_kind(terms).make_signer(terms, context)
        result, _ = sign(grant_id(message.batch, 0), item, NO_UPLOAD)
        return Grant(**result)

    def client(self) -> Any:
        """Return the boto3 client that starts multipart uploads."""
        return self._s3.client(self.bucket, TENANT, self.prefixes, self._now())

    def _context(
        self, terms: AnyTerms, item: Item, bucket: Bucket
    ) -> tuple[ChunkMessage, SigningContext, Any]:
        now = self._now()
        batch = uuid7(int(now.timestamp() * 1000), secrets.token_bytes(10))
        message = ChunkMessage(
            tenant=TENANT,
            batch=batch,
            requested_by="doctor --live",
            grant=terms,
            total=1,
            items=[item],
        )
        config = TenantConfig({bucket.name: bucket}, {TENANT: self._tenant})
        admission = admit(message, self._tenant, config, now)
        if isinstance(admission, Refusal):
            raise Malformed(f"valetkey refused the grant: {admission.code}")
        request = ChunkRequest(message, self._tenant, None)
        context = first_signing_context(request, admission, None, self._s3, now)
        if isinstance(context, Refusal):
            raise Malformed(f"valetkey cannot sign: {context.code}: {context.message}")
        return message, context, admission
