"""From a chunk to its grants. Nothing signed here is seen before its rows are committed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from worker.aws.clients import S3Clients
from worker.core.policy.admission import Admission, admit
from worker.core.policy.decide import decide_chunk
from worker.core.policy.decisions import (
    ChunkDecision,
    ChunkRequest,
    chunk_outcome,
    count_outcome,
    refuse_chunk,
)
from worker.core.policy.history import BATCH_CLOSED
from worker.core.tenants.config import TenantConfig
from worker.db.ledger import Ledger
from worker.usecases.multipart import MultipartUploads
from worker.usecases.reissue import Reissuer
from worker.usecases.signing_context import SigningContextFinder


class Issuer:
    """Decides chunks; one in each process, over its own ledger and credentials."""

    def __init__(
        self, ledger: Ledger, uploads: MultipartUploads, s3: S3Clients, now: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._placer = SigningContextFinder(s3)
        self._now = now
        self._reissuer = Reissuer(ledger, uploads, s3, now)

    def issue(self, asked: ChunkRequest, declared: TenantConfig) -> dict[str, Any]:
        """Answer one chunk with its outcome: grants, or a refusal that says why.

        declared is what held when it was found out who asks. Raises Transient where the database,
        the credentials or storage are out of reach; nothing is then recorded that the same message
        would not find again.
        """
        message, now = asked.message, self._now()
        admitted = admit(message, declared, now)
        if isinstance(admitted, Refusal):
            committed = self._commit(asked, refuse_chunk(message, admitted, now))
        else:
            committed = self._commit_admitted(asked, admitted, now)
        write = chunk_outcome if message.manifest is None else count_outcome
        return write(message.batch, message.chunk, committed)

    def _commit_admitted(
        self, asked: ChunkRequest, admitted: Admission, now: datetime
    ) -> ChunkDecision:
        decided = self._decide(asked.message, admitted, now)
        committed = None
        try:
            committed = self._commit(asked, decided)
        finally:
            if committed is None or committed.rows is not decided.rows:
                self._uploads.take_back(asked.message, admitted, decided, now)
        return committed

    def _decide(self, message: ChunkMessage, admitted: Admission, now: datetime) -> ChunkDecision:
        if self._uploads.are_settled(message):
            return refuse_chunk(
                message, BATCH_CLOSED, now
            )  # for what stands recorded to be answered
        upload = self._uploads.continued(message, now)
        if isinstance(upload, Refusal):
            return refuse_chunk(message, upload, now)
        place = self._placer.place(message, admitted, upload, now)
        if isinstance(place, Refusal):
            return refuse_chunk(message, place, now)
        return decide_chunk(
            message, admitted, place, self._uploads.beginning(message, admitted, now), upload
        )

    def _commit(self, asked: ChunkRequest, decided: ChunkDecision) -> ChunkDecision:
        """Record a decision; what was decided before, or by another chunk, is what counts."""
        now = self._now()
        committed = self._ledger.record(asked, decided, now)
        if isinstance(committed, ChunkDecision):
            return committed
        quotas = self._ledger.standing(asked.tenant, now)
        if isinstance(committed, Refusal):
            return replace(refuse_chunk(asked.message, committed, now), quotas=quotas)
        recorded = self._ledger.recorded(committed.batch, asked.message.chunk)
        return replace(self._reissuer.reissue(recorded), quotas=quotas)
