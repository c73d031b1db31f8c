"""What would be decided on a message, and why."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from valetkey.wire.messages import ChunkMessage, Explanation, Verdict
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Refusal
from worker.aws.clients import S3Clients
from worker.core.auth.authenticate import Rejection, authenticate
from worker.core.policy.admission import Admission, admit
from worker.core.policy.decisions import Validity
from worker.core.policy.explain import ExplainContext, build_explanation, explain
from worker.core.tenants.config import Tenant, TenantConfig
from worker.db.history import BatchHistoryReader
from worker.db.ledger import Ledger
from worker.db.multiparts import UploadRecord
from worker.errors import Malformed, Transient
from worker.usecases.multipart import MultipartUploads
from worker.usecases.signing_context import SigningContextFinder


class Explainer:
    """Explains decisions; one in each process. Nothing is charged, signed or written for it."""

    def __init__(
        self,
        ledger: Ledger,
        past: BatchHistoryReader,
        uploads: MultipartUploads,
        s3: S3Clients,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._past = past
        self._uploads = uploads
        self._placer = SigningContextFinder(s3)
        self._now = now

    def explain(self, message: ChunkMessage, tenant: Tenant, key: str | None) -> Explanation:
        """Hold a message against every rule.

        key is the name of the tenant's key that signed it. Raises Transient where the database is
        out of reach.
        """
        queue = "not signed: the tenant trusts the queue"
        who = queue if key is None else f"signed by {tenant.name}/{key}"
        return explain(self._facts(message, who, self._ledger.declared()))

    def explain_raw(self, raw: Any) -> Explanation:
        """Explain what came off the wire: a compact JWS, or a message as JSON values.

        What is not signed is explained as if it were. Raises Malformed for what asks for no grants,
        and Transient as explain does.
        """
        declared = self._ledger.declared()
        found = authenticate(raw, declared, self._now()) if isinstance(raw, str) else None
        if isinstance(found, Rejection):
            return _unread("identity", found.refusal)
        message = parse_message(raw if found is None else found.content)
        if isinstance(message, Refusal):
            return _unread("message", message)
        if not isinstance(message, ChunkMessage):
            raise Malformed("what asks for no grants has nothing to explain")
        key = None if found is None or found.key is None else found.key.name
        tenant = declared.tenants.get(message.tenant)
        if tenant is not None and (key is not None or tenant.trust == "queue"):
            return self.explain(message, tenant, key)
        who = "not signed: explained as if it were"
        return explain(self._facts(message, who, declared))

    def _facts(self, message: ChunkMessage, who: str, declared: TenantConfig) -> ExplainContext:
        now = self._now()
        earlier, used = self._past.earlier_and_used(message, now)
        admitted = admit(message, declared, now)
        upload = self._uploads.continued(message, now)
        life = None
        if isinstance(admitted, Admission) and not isinstance(upload, Refusal):
            life = self._life(message, admitted, upload, now)
        return ExplainContext(message, who, declared, earlier, used, admitted, life, upload, now)

    def _life(
        self, message: ChunkMessage, admitted: Admission, upload: UploadRecord | None, now: datetime
    ) -> Validity | Refusal | None:
        try:
            place = self._placer.place(message, admitted, upload, now)
        except Transient:
            return None  # an operator's own machine may have no credentials
        return place if isinstance(place, Refusal) else place.life


def _unread(rule: str, refusal: Refusal) -> Explanation:
    return build_explanation([Verdict(rule=rule, found="", refusal=refusal)])
