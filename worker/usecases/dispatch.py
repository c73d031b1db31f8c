"""From what came off the queue to its answer: who asks, what for, and sealed to whoever did."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json

from valetkey.crypto.keys import load_public_key
from valetkey.wire.messages import (
    MAX_BATCH_ITEMS,
    AnyMessage,
    BatchMessage,
    CancelMessage,
    ChunkMessage,
    Outcome,
    Usage,
    UsageMessage,
)
from valetkey.wire.parsing import parse_message
from valetkey.wire.refusals import Code, Refusal
from worker.core.auth.authenticate import Authenticated, Rejection, authenticate
from worker.core.auth.seal import seal
from worker.core.policy.decisions import ChunkRequest
from worker.core.policy.request_rules import allowed_callbacks
from worker.core.signing import object_keys
from worker.core.tenants.config import Tenant, TenantConfig
from worker.db.ledger import Ledger
from worker.db.rejections import RejectionCounter
from worker.usecases.cancel import Canceller
from worker.usecases.explain import Explainer
from worker.usecases.issue import Issuer
from worker.usecases.reopen import Reopener

_LONGEST_ID = 36  # characters: a batch id that is none is shown no further
_UNKNOWN = Refusal(code=Code.TENANT_UNKNOWN, field="tenant", message="no such tenant is declared")


class Response(NamedTuple):
    """What is to be said, as JSON values and as it goes over the wire.

    tenant is whose it is, where that is known for sure; decides says whether it decides on items,
    notifies whether endpoints hear it, completes whether a manifest may be due with it.
    """

    said: dict[str, Any]
    wire: dict[str, Any] | str
    tenant: str | None = None
    decides: bool = False
    notifies: bool = False
    completes: bool = False


class Dispatcher:
    """Answers messages; one in each process."""

    def __init__(  # noqa: PLR0913, PLR0917 - a verb each
        self,
        ledger: Ledger,
        rejections: RejectionCounter,
        issuer: Issuer,
        canceller: Canceller,
        explainer: Explainer,
        reopener: Reopener,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._rejections = rejections
        self._issuer = issuer
        self._canceller = canceller
        self._explainer = explainer
        self._reopener = reopener
        self._now = now

    def answer(self, raw: Any) -> Response:
        """Answer one message, sealed to the key that signed it.

        raw is a compact JWS, or JSON values. Raises Transient as Issuer.issue does.
        """
        declared = self._ledger.declared()
        who = authenticate(raw, declared, self._now())
        if isinstance(who, Rejection):
            said = self._reject(raw, raw, who.refusal, who.tenant)
            return Response(said, said)
        message = parse_message(who.content)
        if isinstance(message, Refusal):
            said = self._reject(raw, who.content, message, who.name)
            return _sealed(self._left(said, who.tenant), who)
        if who.tenant is None:
            said = self._reject(raw, raw, _UNKNOWN, None)
            return Response(said, said)
        key = None if who.key is None else who.key.name
        said = self._said(message, who.tenant, key, declared)
        answer = _sealed(said, who)
        if not isinstance(message, ChunkMessage) or message.ask != "grants":
            return answer
        return answer._replace(
            decides=True, notifies=_notifies(message, who.tenant), completes=_completes(message)
        )

    def _said(
        self, message: AnyMessage, tenant: Tenant, key: str | None, declared: TenantConfig
    ) -> dict[str, Any]:
        match message:
            case UsageMessage():
                quotas = self._ledger.standing(tenant, self._now())
                return _values(Usage(tenant=tenant.name, quotas=quotas))
            case CancelMessage():
                return _values(self._canceller.cancel(message, key))
            case BatchMessage():
                return self._left(self._reopener.reopen(message), tenant)
            case ChunkMessage(ask="explain"):
                return _values(self._explainer.explain(message, tenant, key))
        return self._issuer.issue(ChunkRequest(message, tenant, key), declared)

    def _left(self, said: dict[str, Any], tenant: Tenant | None) -> dict[str, Any]:
        """Have an outcome say what is left, though nothing was charged."""
        if tenant is None or said["status"] not in {"issued", "refused"}:
            return said
        quotas = self._ledger.standing(tenant, self._now())
        return said | {"quotas": [_values(quota) for quota in quotas]}

    def _reject(
        self, raw: Any, content: Any, refusal: Refusal, tenant: str | None
    ) -> dict[str, Any]:
        self._rejections.count(refusal.code, tenant, _text(raw), self._now())
        return _values(Outcome(**_claimed(content), status="refused", refusal=refusal))


def _sealed(said: dict[str, Any], who: Authenticated) -> Response:
    if who.key is None:
        return Response(said, said, who.name)
    public = load_public_key(who.key.sign, who.key.seal)
    return Response(said, seal(to_json(said), f"{who.name}/{who.key.name}", public), who.name)


def _notifies(message: ChunkMessage, tenant: Tenant) -> bool:
    return message.callback in allowed_callbacks(tenant, message.grant.bucket)


def _completes(message: ChunkMessage) -> bool:
    """Whether it is a batch's last chunk; where others are decided after it, the sweep sees."""
    return message.manifest is not None and message.first_item + len(message.items) == message.total


def _text(raw: Any) -> str:
    """What came, to tell whether it came again."""
    try:
        return raw if isinstance(raw, str) else json.dumps(raw, sort_keys=True, default=str)
    except RecursionError:
        return "nested deeper than can be written"


def _values(reply: BaseModel) -> dict[str, Any]:
    return reply.model_dump(mode="json", exclude_none=True)


def _claimed(content: Any) -> dict[str, Any]:
    # Whoever sent it finds its answer by the task; a batch and chunk that can be read help it more.
    header = content if isinstance(content, Mapping) else {}
    batch, chunk = header.get("batch"), header.get("chunk")
    return {
        "batch": object_keys.printable_key(batch)[:_LONGEST_ID] if isinstance(batch, str) else "",
        "chunk": chunk if type(chunk) is int and 0 <= chunk < MAX_BATCH_ITEMS else 0,
    }
