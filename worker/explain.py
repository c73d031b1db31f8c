"""What would be decided on a message, and why."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from valetkey.messages import Explanation, Message, Verdict
from valetkey.reading import read
from valetkey.refusals import Refusal
from worker.adapters.ledger import Ledger
from worker.adapters.multiparts import Open
from worker.adapters.past import Past
from worker.adapters.s3 import S3
from worker.core.admission import Admitted, admit
from worker.core.decisions import Life
from worker.core.explaining import Facts, explain, explained
from worker.core.identity import Rejected, authenticate
from worker.core.tenancy import Declared, Tenant
from worker.errors import Malformed, Transient
from worker.multipart import Uploads
from worker.placing import Placer


class Explainer:
    """Explains decisions; one in each process. Nothing is charged, signed or written for it."""

    def __init__(
        self, ledger: Ledger, past: Past, uploads: Uploads, s3: S3, now: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._past = past
        self._uploads = uploads
        self._placer = Placer(s3)
        self._now = now

    def explain(self, message: Message, tenant: Tenant, key: str | None) -> Explanation:
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
        if isinstance(found, Rejected):
            return _unread("identity", found.refusal)
        message = read(raw if found is None else found.content)
        if isinstance(message, Refusal):
            return _unread("message", message)
        if not isinstance(message, Message):
            raise Malformed("what asks for no grants has nothing to explain")
        key = None if found is None or found.key is None else found.key.name
        tenant = declared.tenants.get(message.tenant)
        if tenant is not None and (key is not None or tenant.trust == "queue"):
            return self.explain(message, tenant, key)
        who = "not signed: explained as if it were"
        return explain(self._facts(message, who, declared))

    def _facts(self, message: Message, who: str, declared: Declared) -> Facts:
        now = self._now()
        earlier, used = self._past.earlier_and_used(message, now)
        admitted = admit(message, declared, now)
        upload = self._uploads.continued(message, now)
        life = None
        if isinstance(admitted, Admitted) and not isinstance(upload, Refusal):
            life = self._life(message, admitted, upload, now)
        return Facts(message, who, declared, earlier, used, admitted, life, upload, now)

    def _life(
        self, message: Message, admitted: Admitted, upload: Open | None, now: datetime
    ) -> Life | Refusal | None:
        try:
            place = self._placer.place(message, admitted, upload, now)
        except Transient:
            return None  # an operator's own machine may have no credentials
        return place if isinstance(place, Refusal) else place.life


def _unread(rule: str, refusal: Refusal) -> Explanation:
    return explained([Verdict(rule=rule, found="", refusal=refusal)])
