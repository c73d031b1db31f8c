"""Explanations of messages of the tenant acme, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.builders.messages import DEMO, POLICY
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Explanation, RuleVerdict
from worker.core.policy.admission import admit
from worker.core.policy.decisions import GrantRow, RecordedChunk
from worker.core.policy.explain import ExplainContext, explain
from worker.core.policy.fingerprints import header_fingerprint, items_fingerprint
from worker.core.policy.history import BatchHistory, DecidedChunk, RecordedBatch
from worker.core.signing.validity import Validity
from worker.core.tenants.config import Quota, Tenant, TenantConfig

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MORNING = NOW - timedelta(hours=3)
VALIDITY = Validity(NOW, 300, "request")


def explain_context(raw: dict[str, Any], *quotas: Quota, **changes: Any) -> ExplainContext:
    """Return a message of acme with what it is checked against, with changed fields."""
    message = ChunkMessage.model_validate(raw)
    acme = Tenant("acme", policies={"demo": POLICY}, quotas=quotas)
    config = TenantConfig({"demo": DEMO, "other": replace(DEMO, name="other")}, {"acme": acme})
    fields: dict[str, Any] = {
        "message": message,
        "identity": "signed by acme/main",
        "tenant": config.tenants.get(message.tenant),
        "config": config,
        "history": BatchHistory(),
        "recorded": None,
        "usage": {},
        "admission": admit(message, config.tenants.get(message.tenant), config, NOW),
        "validity": VALIDITY,
        "continued_upload": None,
        "now": NOW,
    }
    return ExplainContext(**fields | changes)


def history_of_started_batch(
    raw: dict[str, Any], chunk: DecidedChunk | None = None, refusal: Refusal | None = None
) -> BatchHistory:
    """Return the history of a batch that began in the morning, and was refused if refusal is set.

    chunk is the decision on the chunk of the message, if there is one.
    """
    fingerprint = header_fingerprint(ChunkMessage.model_validate(raw))
    batch = RecordedBatch(1, "download", "demo", 1, 600, fingerprint, refusal, MORNING, remaining=1)
    return BatchHistory(batch, chunk)


def explain_message(raw: dict[str, Any], *quotas: Quota, **changes: Any) -> Explanation:
    """Explain a message of acme, as explain_context prepares it."""
    return explain(explain_context(raw, *quotas, **changes))


def verdict_for(explanation: Explanation, rule: str) -> RuleVerdict:
    """Return the only verdict of a rule."""
    (verdict,) = [verdict for verdict in explanation.rules if verdict.rule == rule]
    return verdict


def refusal_codes(explanation: Explanation) -> dict[str, str]:
    """Return the codes of the rules that refuse, by rule."""
    return {
        verdict.rule: str(verdict.refusal.code)
        for verdict in explanation.rules
        if verdict.refusal is not None
    }


def explain_issued_chunk(raw: dict[str, Any], **changes: Any) -> Explanation:
    """Explain a message whose only item was issued in the morning, for half a day."""
    message = ChunkMessage.model_validate(raw)
    recorded = RecordedChunk(
        batch_number=1,
        batch_id=message.batch,
        chunk_number=0,
        tenant_id="acme",
        terms=message.grant,
        total=message.total,
        callback=message.callback,
        rows=[GrantRow(0, "acme/a.pdf", digest=bytes(32))],
        validity=Validity(MORNING, 43_200, "request"),
        access_key="AKIDEXAMPLE",
        refusal=None,
        uploads={},
    )
    history = history_of_started_batch(raw, DecidedChunk(items_fingerprint(message), MORNING, None))
    return explain_message(raw, history=history, recorded=replace(recorded, **changes))
