from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.builders.messages import (
    DEMO,
    POLICY,
    download_message,
    grant_message,
    parts_message,
    put_message,
)
from valetkey.signing.signing_context import MultipartPlan, StartedUpload, Validity
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Explanation, RuleVerdict
from worker.explain.decision_explanation import ExplainContext, explain
from worker.rules.admission import admit
from worker.rules.decisions import GrantRow, RecordedChunk
from worker.rules.fingerprints import (
    BatchHistory,
    DecidedChunk,
    RecordedBatch,
    header_fingerprint,
    items_fingerprint,
    salted_fingerprint,
)
from worker.rules.quota_rules import Cost
from worker.rules.tenant_config import Quota, Tenant, TenantConfig

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MORNING = NOW - timedelta(hours=3)
VALIDITY = Validity(NOW, 300, "request")


def explain_message(raw: dict[str, Any], *quotas: Quota, **changes: Any) -> Explanation:
    """Explain a message of acme, with changes of what it is checked against."""
    message = ChunkMessage.model_validate(raw)
    acme = Tenant("acme", policies={"demo": POLICY}, quotas=quotas)
    config = TenantConfig({"demo": DEMO, "other": replace(DEMO, name="other")}, {"acme": acme})
    tenant = config.tenants.get(message.tenant)
    fields: dict[str, Any] = {
        "message": message,
        "identity": "signed by acme/main",
        "tenant": tenant,
        "config": config,
        "history": BatchHistory(),
        "recorded": None,
        "usage": {},
        "admitted": admit(message, config.tenants.get(message.tenant), config, NOW),
        "validity": VALIDITY,
        "now": NOW,
    }
    return explain(ExplainContext(**fields | changes))


SALT = bytes(16)


def history_of_started_batch(
    raw: dict[str, Any], chunk: DecidedChunk | None = None, refusal: Refusal | None = None
) -> BatchHistory:
    """Return the history of a batch that began in the morning, and was refused if refusal is set.

    chunk is the decision on the chunk of the message, if there is one.
    """
    fingerprint = salted_fingerprint(SALT, header_fingerprint(ChunkMessage.model_validate(raw)))
    batch = RecordedBatch(1, "download", "demo", 1, 600, fingerprint, refusal, MORNING, 1, SALT)
    return BatchHistory(batch, chunk)


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
        batch_texts={},
        annotations={},
    )
    fingerprint = salted_fingerprint(SALT, items_fingerprint(message))
    history = history_of_started_batch(raw, DecidedChunk(fingerprint, MORNING, None))
    return explain_message(raw, history=history, recorded=replace(recorded, **changes))


OVER_QUOTA = Refusal(code=Code.QUOTA_EXCEEDED, field="total", message="no")
TOO_SHORT = Refusal(code=Code.EXPIRY_TOO_SHORT, field="grant.min_expires_in", message="no")


class ThreePartUpload:
    """A multipart upload of three parts, as a request for its parts continues it."""

    object_key = "acme/film.mp4"
    upload = StartedUpload("u-1", MultipartPlan(3, 1))


def test_an_issued_request_is_explained_rule_by_rule() -> None:
    explanation = explain_message(grant_message(["acme/a", "acme/b"]), Quota("grants", "day", 10))
    assert explanation.decision == "issue"
    assert [(verdict.rule, verdict.found) for verdict in explanation.rules] == [
        ("identity", "signed by acme/main"),
        ("batch", "not seen before"),
        ("tenant", "acme"),
        ("grant.bucket", "demo"),
        ("total", "2 of at most 100,000"),
        ("grant.kind", "download"),
        ("grant.expires_in", "5 minutes of at most 1 day"),
        ("validity", "5 minutes, limited by the request"),
        ("items", "2 in this chunk, 0 of them refused"),
        ("quota grants.day", "0 of 10 used, 2 requested, 10 left"),
    ]


def test_all_rules_that_refuse_are_listed_and_not_only_the_first() -> None:
    raw = download_message(
        expires_in=90_000, content_type="text/html", inline=True, cache_control="no-store"
    ) | {"callback": "nowhere", "deadline": "2026-11-24T11:00:00Z"}
    explanation = explain_message(raw, Quota("grants", "day", 0))
    assert explanation.decision == "refuse"
    assert refusal_codes(explanation) == {
        "callback": "callback_unknown",
        "deadline": "deadline_passed",
        "grant.content_type": "content_type_not_allowed",
        "grant.inline": "inline_not_allowed",
        "grant.cache_control": "override_not_allowed",
        "grant.expires_in": "expiry_too_long",
        "quota grants.day": "quota_exceeded",
    }


def test_the_explanation_ends_at_a_tenant_or_bucket_that_is_unknown_or_not_allowed() -> None:
    explanation = explain_message(download_message(bucket="other"))
    assert [verdict.rule for verdict in explanation.rules] == ["identity", "batch", "grant.bucket"]
    assert refusal_codes(explanation) == {"grant.bucket": "bucket_not_allowed"}
    unknown = explain_message(grant_message(tenant="nobody"))
    assert refusal_codes(unknown) == {"tenant": "tenant_unknown"}


RAW = grant_message()
OTHER_ITEMS = DecidedChunk(bytes(32), MORNING, None)
BEGAN = "began at 2026-11-24T09:00:00Z"


@pytest.mark.parametrize(
    ("history", "code", "found"),
    [
        (history_of_started_batch(RAW, refusal=OVER_QUOTA), "quota_exceeded", BEGAN),
        (history_of_started_batch(RAW, OTHER_ITEMS), "batch_conflict", BEGAN),
        (BatchHistory(is_cancelled=True), "batch_closed", "not seen before"),
    ],
    ids=["refused", "other items", "cancelled"],
)
def test_a_batch_whose_history_refuses_the_message_is_explained_by_it(
    history: BatchHistory, code: str, found: str
) -> None:
    explanation = explain_message(RAW, history=history)
    assert explanation.decision == "refuse"
    assert [verdict.rule for verdict in explanation.rules] == ["identity", "batch"]
    assert refusal_codes(explanation) == {"batch": code}
    assert verdict_for(explanation, "batch").found == found


def test_a_later_chunk_uses_the_quota_that_was_reserved_when_its_batch_began() -> None:
    history, usage = history_of_started_batch(RAW), {"day": Cost(1)}
    explanation = explain_message(RAW, Quota("grants", "day", 1), history=history, usage=usage)
    assert explanation.decision == "issue"
    assert verdict_for(explanation, "quota grants.day").found == "reserved when the batch began"


def test_items_are_refused_one_by_one_and_the_first_five_are_named() -> None:
    bad = ["acme/../a", *(f"globex/{number}" for number in range(6))]
    verdict = verdict_for(explain_message(grant_message(["acme/fine", *bad])), "items")
    assert verdict.refusal is None
    assert verdict.found == (
        "8 in this chunk, 7 of them refused: items[1].key key_traversal, "
        "items[2].key key_outside_prefix, items[3].key key_outside_prefix, "
        "items[4].key key_outside_prefix, items[5].key key_outside_prefix and 2 more"
    )


def test_the_quota_is_checked_for_the_exact_sizes_of_items_that_are_known() -> None:
    raw = put_message({"acme/a": 300, "acme/b": 500, "globex/c": 700}, max_size=900)
    raw |= {"total": 4, "chunk_size": 3}
    explanation = explain_message(raw, Quota("upload_bytes", "day", 2_000))
    assert verdict_for(explanation, "quota upload_bytes.day").found == (
        "0 bytes of 2.0 KiB (2,000 bytes) used, 1.7 KiB (1,700 bytes) requested, "
        "2.0 KiB (2,000 bytes) left"
    )


def test_each_quota_has_a_verdict_of_its_own() -> None:
    quotas = (Quota("grants", "day", 1), Quota("grants", "month", 5), Quota("grants", "live", 1))
    usage = {"day": Cost(1), "month": Cost(1), "live": Cost(1)}
    explanation = explain_message(grant_message(), *quotas, usage=usage)
    assert set(refusal_codes(explanation)) == {"quota grants.day", "quota grants.live"}
    month = verdict_for(explanation, "quota grants.month")
    assert month.found == "1 of 5 used, 1 requested, 4 left"


def test_the_limit_of_the_validity_is_named_and_a_validity_that_is_too_short_refuses() -> None:
    shortened = explain_message(grant_message(), validity=Validity(NOW, 60, "credentials"))
    assert verdict_for(shortened, "validity").found == "1 minute, limited by the credentials"
    refused = explain_message(grant_message(), validity=TOO_SHORT)
    assert refusal_codes(refused) == {"validity": "expiry_too_short"}


def test_without_credentials_the_explanation_says_that_they_were_not_checked() -> None:
    explanation = explain_message(grant_message(), validity=None)
    assert explanation.decision == "issue"
    assert verdict_for(explanation, "validity").found == (
        "not checked against credentials, because there are none here"
    )


def test_parts_are_checked_against_their_upload() -> None:
    raw = parts_message("b.0", 3, 4, key="acme/film.mp4")
    text = verdict_for(explain_message(raw, continued_upload=ThreePartUpload()), "items").found
    assert text.endswith("1 of them refused: items[1].part part_invalid")
    gone = Refusal(code=Code.UPLOAD_UNKNOWN, field="grant.of", message="gone")
    explanation = explain_message(raw, continued_upload=gone, validity=None)
    assert refusal_codes(explanation) == {"grant.of": "upload_unknown"}


def test_an_issued_chunk_is_explained_by_the_rules_of_today_for_signing_it_again() -> None:
    explanation = explain_issued_chunk(grant_message(deadline="2026-11-24T11:00:00Z"))
    assert explanation.decision == "issue"
    assert [(verdict.rule, verdict.found) for verdict in explanation.rules] == [
        ("identity", "signed by acme/main"),
        ("batch", "decided at 2026-11-24T09:00:00Z: not decided again, and nothing is charged"),
        ("grant.bucket", "demo"),
        ("total", "1 of at most 100,000"),
        ("grant.kind", "download"),
        ("grant.expires_in", "9 hours left of at most 1 day"),
        ("items", "1 in this chunk, 0 of them refused"),
    ]


def test_an_issued_chunk_that_the_policy_of_today_refuses_is_explained_as_refused() -> None:
    explanation = explain_issued_chunk(
        grant_message(callback="nowhere"),
        validity=Validity(MORNING, 604_800, "request"),
        rows=[GrantRow(0, "globex/a", digest=bytes(32))],
    )
    assert explanation.decision == "refuse"
    assert refusal_codes(explanation) == {
        "callback": "callback_unknown",
        "grant.expires_in": "expiry_too_long",
        "items": "key_outside_prefix",
    }


def test_an_issued_chunk_of_a_removed_tenant_is_explained_as_refused() -> None:
    explanation = explain_issued_chunk(grant_message(), tenant_id="removed")
    assert [verdict.rule for verdict in explanation.rules] == ["identity", "batch", "grant.bucket"]
    assert refusal_codes(explanation) == {"grant.bucket": "bucket_not_allowed"}
