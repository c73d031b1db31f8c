"""From a chunk to its grants. Nothing signed here is seen before its rows are committed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from valetkey.messages import Message
from valetkey.refusals import Refusal
from worker.adapters.ledger import Ledger
from worker.adapters.s3 import S3
from worker.core.admission import Admitted, admit
from worker.core.deciding import decide
from worker.core.decisions import Asked, Decided, counted, outcome, refuse_all
from worker.core.earlier import CLOSED
from worker.core.tenancy import Declared
from worker.multipart import Uploads
from worker.placing import Placer
from worker.reissue import Reissuer


class Issuer:
    """Decides chunks; one in each process, over its own ledger and credentials."""

    def __init__(
        self, ledger: Ledger, uploads: Uploads, s3: S3, now: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._placer = Placer(s3)
        self._now = now
        self._reissuer = Reissuer(ledger, uploads, s3, now)

    def issue(self, asked: Asked, declared: Declared) -> dict[str, Any]:
        """Answer one chunk with its outcome: grants, or a refusal that says why.

        declared is what held when it was found out who asks. Raises Transient where the database,
        the credentials or storage are out of reach; nothing is then recorded that the same message
        would not find again.
        """
        message, now = asked.message, self._now()
        admitted = admit(message, declared, now)
        if isinstance(admitted, Refusal):
            committed = self._commit(asked, refuse_all(message, admitted, now))
        else:
            committed = self._commit_admitted(asked, admitted, now)
        write = outcome if message.manifest is None else counted
        return write(message.batch, message.chunk, committed)

    def _commit_admitted(self, asked: Asked, admitted: Admitted, now: datetime) -> Decided:
        decided = self._decide(asked.message, admitted, now)
        committed = None
        try:
            committed = self._commit(asked, decided)
        finally:
            if committed is None or committed.rows is not decided.rows:
                self._uploads.take_back(asked.message, admitted, decided, now)
        return committed

    def _decide(self, message: Message, admitted: Admitted, now: datetime) -> Decided:
        if self._uploads.are_settled(message):
            return refuse_all(message, CLOSED, now)  # for what stands recorded to be answered
        upload = self._uploads.continued(message, now)
        if isinstance(upload, Refusal):
            return refuse_all(message, upload, now)
        place = self._placer.place(message, admitted, upload, now)
        if isinstance(place, Refusal):
            return refuse_all(message, place, now)
        return decide(
            message, admitted, place, self._uploads.beginning(message, admitted, now), upload
        )

    def _commit(self, asked: Asked, decided: Decided) -> Decided:
        """Record a decision; what was decided before, or by another chunk, is what counts."""
        now = self._now()
        committed = self._ledger.record(asked, decided, now)
        if isinstance(committed, Decided):
            return committed
        quotas = self._ledger.standing(asked.tenant, now)
        if isinstance(committed, Refusal):
            return replace(refuse_all(asked.message, committed, now), quotas=quotas)
        recorded = self._ledger.recorded(committed.batch, asked.message.chunk)
        return replace(self._reissuer.reissue(recorded), quotas=quotas)
