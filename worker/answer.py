"""From what came off the queue to its answer: who asks, what for, and sealed to whoever did."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json

from valetkey.identity import public_key
from valetkey.messages import CancelAsk, Message, Outcome, Usage, UsageAsk
from valetkey.reading import read
from valetkey.refusals import Code, Refusal
from valetkey.sealing import seal
from worker.adapters.ledger import Ledger
from worker.adapters.rejections import Rejections
from worker.cancel import Canceller
from worker.core import keys
from worker.core.identity import Rejected, authenticate
from worker.core.tenancy import Key, Tenant
from worker.explain import Explainer
from worker.issue import Issuer


class Answer(NamedTuple):
    """What is to be said, as JSON values and as it goes over the wire, and if endpoints hear it."""

    said: dict[str, Any]
    wire: dict[str, Any] | str
    notifies: bool = False


class Answerer:
    """Answers messages; one in each process."""

    def __init__(  # noqa: PLR0913, PLR0917 - a verb each
        self,
        ledger: Ledger,
        rejections: Rejections,
        issuer: Issuer,
        canceller: Canceller,
        explainer: Explainer,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._rejections = rejections
        self._issuer = issuer
        self._canceller = canceller
        self._explainer = explainer
        self._now = now

    def answer(self, raw: Any) -> Answer:
        """Answer one message, sealed to the key that signed it.

        raw is a compact JWS, or JSON values. Raises Transient as Issuer.issue does.
        """
        who = authenticate(raw, self._ledger.declared(), self._now())
        if isinstance(who, Rejected):
            return self._reject(raw, who.refusal, who.tenant)
        message = read(who.content)
        if isinstance(message, Refusal):
            refused = self._reject(who.content, message, who.tenant.name if who.tenant else None)
            return _sealed(refused.said, who.tenant, who.key)
        if who.tenant is None:
            text = "no such tenant is declared"
            unknown = Refusal(code=Code.TENANT_UNKNOWN, field="tenant", message=text)
            return self._reject(raw, unknown, None)
        answer = _sealed(self._said(message, who.tenant, who.key), who.tenant, who.key)
        return answer._replace(notifies=getattr(message, "callback", None) is not None)

    def _said(self, message: Any, tenant: Tenant, key: Key | None) -> dict[str, Any]:
        name = None if key is None else key.name
        match message:
            case UsageAsk():
                quotas = self._ledger.standing(tenant, self._now())
                return _values(Usage(tenant=tenant.name, quotas=quotas))
            case CancelAsk():
                return _values(self._canceller.cancel(message, name))
            case Message(ask="explain"):
                return _values(self._explainer.explain(message, tenant))
        return self._issuer.issue(message, tenant, name)

    def _reject(self, raw: Any, refusal: Refusal, tenant: str | None) -> Answer:
        content = raw if isinstance(raw, str) else json.dumps(raw, sort_keys=True, default=str)
        self._rejections.count(refusal.code, tenant, content, self._now())
        said = _values(Outcome(**_claimed(raw), status="refused", refusal=refusal))
        return Answer(said, said)


def _sealed(said: dict[str, Any], tenant: Tenant | None, key: Key | None) -> Answer:
    if tenant is None or key is None:
        return Answer(said, said)
    content, public = _json(said), public_key(key.sign, key.seal)
    return Answer(said, seal(content, f"{tenant.name}/{key.name}", public))


def _json(said: dict[str, Any]) -> bytes:
    try:
        return to_json(said)
    except ValueError:  # a lone surrogate, which a refused key may have: Python's JSON writes it
        return json.dumps(said).encode()


def _values(reply: BaseModel) -> dict[str, Any]:
    return reply.model_dump(mode="json", exclude_none=True)


def _claimed(raw: Any) -> dict[str, Any]:
    # Whoever sent it finds its answer by the task; a batch and chunk that can be read help it more.
    header = raw if isinstance(raw, dict) else {}
    batch, chunk = header.get("batch"), header.get("chunk", 0)
    return {
        "batch": keys.shown(batch)[:36] if isinstance(batch, str) else "",
        "chunk": chunk if type(chunk) is int else 0,
    }
