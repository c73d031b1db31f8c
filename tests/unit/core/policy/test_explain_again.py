"""Explains messages whose chunk was issued before: the rules of today apply to them again."""

from tests.support.builders.explanations import MORNING, explain_issued_chunk, refusal_codes
from tests.support.builders.messages import grant_message
from worker.core.policy.decisions import GrantRow
from worker.core.signing.validity import Validity


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
