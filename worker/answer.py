"""From what came off the queue to its answer: who asks, what for, and sealed to whoever did."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json

from valetkey.identity import public_key
from valetkey.messages import (
    LARGEST_BATCH,
    Ask,
    BatchAsk,
    CancelAsk,
    Message,
    Outcome,
    Usage,
    UsageAsk,
)
from valetkey.reading import read
from valetkey.refusals import Code, Refusal
from worker.adapters.ledger import Ledger
from worker.adapters.rejections import Rejections
from worker.cancel import Canceller
from worker.core import keys
from worker.core.decisions import Asked
from worker.core.headers import endpoints
from worker.core.identity import Genuine, Rejected, authenticate
from worker.core.sealing import seal
from worker.core.tenancy import Declared, Tenant
from worker.explain import Explainer
from worker.issue import Issuer
from worker.reopen import Reopener

_LONGEST_ID = 36  # characters: a batch id that is none is shown no further
_UNKNOWN = Refusal(code=Code.TENANT_UNKNOWN, field="tenant", message="no such tenant is declared")


class Answer(NamedTuple):
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


class Answerer:
    """Answers messages; one in each process."""

    def __init__(  # noqa: PLR0913, PLR0917 - a verb each
        self,
        ledger: Ledger,
        rejections: Rejections,
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

    def answer(self, raw: Any) -> Answer:
        """Answer one message, sealed to the key that signed it.

        raw is a compact JWS, or JSON values. Raises Transient as Issuer.issue does.
        """
        declared = self._ledger.declared()
        who = authenticate(raw, declared, self._now())
        if isinstance(who, Rejected):
            said = self._reject(raw, raw, who.refusal, who.tenant)
            return Answer(said, said)
        message = read(who.content)
        if isinstance(message, Refusal):
            said = self._reject(raw, who.content, message, who.name)
            return _sealed(self._left(said, who.tenant), who)
        if who.tenant is None:
            said = self._reject(raw, raw, _UNKNOWN, None)
            return Answer(said, said)
        key = None if who.key is None else who.key.name
        said = self._said(message, who.tenant, key, declared)
        answer = _sealed(said, who)
        if not isinstance(message, Message) or message.ask != "grants":
            return answer
        return answer._replace(
            decides=True, notifies=_notifies(message, who.tenant), completes=_completes(message)
        )

    def _said(
        self, message: Ask, tenant: Tenant, key: str | None, declared: Declared
    ) -> dict[str, Any]:
        match message:
            case UsageAsk():
                quotas = self._ledger.standing(tenant, self._now())
                return _values(Usage(tenant=tenant.name, quotas=quotas))
            case CancelAsk():
                return _values(self._canceller.cancel(message, key))
            case BatchAsk():
                return self._left(self._reopener.reopen(message), tenant)
            case Message(ask="explain"):
                return _values(self._explainer.explain(message, tenant, key))
        return self._issuer.issue(Asked(message, tenant, key), declared)

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


def _sealed(said: dict[str, Any], who: Genuine) -> Answer:
    if who.key is None:
        return Answer(said, said, who.name)
    public = public_key(who.key.sign, who.key.seal)
    return Answer(said, seal(to_json(said), f"{who.name}/{who.key.name}", public), who.name)


def _notifies(message: Message, tenant: Tenant) -> bool:
    return message.callback in endpoints(tenant, message.grant.bucket)


def _completes(message: Message) -> bool:
    """Whether it is a batch's last chunk; where others are decided after it, the sweep sees."""
    return message.manifest is not None and message.first + len(message.items) == message.total


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
        "batch": keys.shown(batch)[:_LONGEST_ID] if isinstance(batch, str) else "",
        "chunk": chunk if type(chunk) is int and 0 <= chunk < LARGEST_BATCH else 0,
    }
