from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.builders.messages import (
    DEMO,
    POLICY,
    download_message,
    grant_message,
    put_message,
)
from valetkey.wire.messages import ChunkMessage, Explanation, Verdict
from valetkey.wire.refusals import Code, Refusal
from worker.core.policy.admission import admit
from worker.core.policy.decisions import StartedUpload, Validity
from worker.core.policy.explain import ExplainContext, explain
from worker.core.policy.history import BATCH_CLOSED, BatchHistory
from worker.core.quotas.cost import Cost
from worker.core.signing.multipart_plan import MultipartPlan
from worker.core.tenants.config import Quota, Tenant, TenantConfig

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MORNING = NOW - timedelta(hours=3)
LIFE = Validity(NOW, 300, "request")
TOO_SHORT = Refusal(code=Code.EXPIRY_TOO_SHORT, field="grant.min_expires_in", message="no")


class Upload:
    """A multipart upload of three parts."""

    key = "acme/film.mp4"
    begun = StartedUpload("u-1", MultipartPlan(3, 1))


def facts(raw: dict[str, Any], *quotas: Quota, **changes: Any) -> ExplainContext:
    asked = ChunkMessage.model_validate(raw)
    acme = Tenant("acme", policies={"demo": POLICY}, quotas=quotas)
    known = TenantConfig({"demo": DEMO, "other": replace(DEMO, name="other")}, {"acme": acme})
    found: dict[str, Any] = {
        "message": asked,
        "who": "signed by acme/main",
        "declared": known,
        "earlier": BatchHistory(),
        "used": {},
        "admitted": admit(asked, known, NOW),
        "life": LIFE,
        "upload": None,
        "now": NOW,
    }
    return ExplainContext(**found | changes)


def explained(raw: dict[str, Any], *quotas: Quota, **changes: Any) -> Explanation:
    return explain(facts(raw, *quotas, **changes))


def verdict(explanation: Explanation, rule: str) -> Verdict:
    (found,) = [verdict for verdict in explanation.rules if verdict.rule == rule]
    return found


def refusing(explanation: Explanation) -> dict[str, str]:
    return {
        verdict.rule: verdict.refusal.code.value
        for verdict in explanation.rules
        if verdict.refusal is not None
    }


def test_what_is_granted_is_explained_rule_by_rule() -> None:
    explanation = explained(grant_message(["acme/a", "acme/b"]), Quota("grants", "day", 10))
    assert explanation.decision == "issue"
    assert [(verdict.rule, verdict.found) for verdict in explanation.rules] == [
        ("identity", "signed by acme/main"),
        ("batch", "not seen before"),
        ("tenant", "acme"),
        ("grant.bucket", "demo"),
        ("total", "2 of at most 100,000"),
        ("grant.kind", "download"),
        ("grant.expires_in", "300 s of at most 86,400 s"),
        ("life", "300 s, limited by the request"),
        ("items", "2 in this chunk, 0 of them refused"),
        ("quota grants.day", "0 of 10 used, 2 asked for, 10 left"),
    ]


def test_every_rule_that_refuses_is_shown_and_not_the_first_alone() -> None:
    raw = download_message(
        expires_in=90_000, content_type="text/html", inline=True, cache_control="no-store"
    ) | {"callback": "nowhere", "deadline": "2026-11-24T11:00:00Z"}
    explanation = explained(raw, Quota("grants", "day", 0))
    assert explanation.decision == "refuse"
    assert refusing(explanation) == {
        "callback": "callback_unknown",
        "deadline": "deadline_passed",
        "grant.content_type": "content_type_not_allowed",
        "grant.inline": "inline_not_allowed",
        "grant.cache_control": "override_not_allowed",
        "grant.expires_in": "expiry_too_long",
        "quota grants.day": "quota_exceeded",
    }


def test_what_is_not_the_tenants_is_explained_no_further() -> None:
    explanation = explained(download_message(bucket="other"))
    assert [verdict.rule for verdict in explanation.rules] == ["identity", "batch", "grant.bucket"]
    assert refusing(explanation) == {"grant.bucket": "bucket_not_allowed"}
    assert refusing(explained(grant_message(tenant="nobody"))) == {"tenant": "tenant_unknown"}


def test_what_was_decided_before_counts_and_no_rule_is_asked_again() -> None:
    explanation = explained(
        download_message(expires_in=90_000), earlier=BatchHistory(MORNING, MORNING)
    )
    assert explanation.decision == "issue"
    assert [verdict.rule for verdict in explanation.rules] == ["identity", "batch"]
    assert "2026-11-24T09:00:00Z" in verdict(explanation, "batch").found


def test_a_batch_that_is_refused_or_cancelled_already_is_explained_as_that() -> None:
    explanation = explained(grant_message(), earlier=BatchHistory(refusal=BATCH_CLOSED))
    assert refusing(explanation) == {"batch": "batch_closed"}
    assert explanation.decision == "refuse"


def test_a_later_chunk_asks_for_no_more_than_was_reserved_when_its_batch_began() -> None:
    explanation = explained(
        grant_message(),
        Quota("grants", "day", 1),
        earlier=BatchHistory(MORNING),
        used={"day": Cost(1)},
    )
    assert explanation.decision == "issue"
    assert verdict(explanation, "quota grants.day").found == "reserved when the batch began"


def test_items_are_refused_one_by_one_and_the_first_few_are_named() -> None:
    bad = ["acme/../a", *(f"globex/{number}" for number in range(6))]
    found = verdict(explained(grant_message(["acme/fine", *bad])), "items")
    assert found.refusal is None
    assert found.found == (
        "8 in this chunk, 7 of them refused: items[1].key key_traversal, "
        "items[2].key key_outside_prefix, items[3].key key_outside_prefix, "
        "items[4].key key_outside_prefix, items[5].key key_outside_prefix and 2 more"
    )


def test_a_message_whose_items_are_all_refused_is_granted_nothing() -> None:
    explanation = explained(grant_message(["globex/a"]))
    assert explanation.decision == "refuse"
    assert refusing(explanation) == {"items": "key_outside_prefix"}


def test_quotas_are_asked_for_what_the_batch_costs_once_its_sizes_are_known() -> None:
    raw = put_message({"acme/a": 300, "acme/b": 500, "globex/c": 700}, max_size=900)
    raw |= {"total": 4, "chunk_size": 3}
    found = verdict(explained(raw, Quota("upload_bytes", "day", 2_000)), "quota upload_bytes.day")
    assert found.found == "0 of 2,000 used, 1,700 asked for, 2,000 left"


def test_each_quota_is_explained_by_itself() -> None:
    quotas = (Quota("grants", "day", 1), Quota("grants", "month", 5), Quota("grants", "live", 1))
    used = {"day": Cost(1), "month": Cost(1), "live": Cost(1)}
    explanation = explained(grant_message(), *quotas, used=used)
    assert set(refusing(explanation)) == {"quota grants.day", "quota grants.live"}
    assert verdict(explanation, "quota grants.month").found == "1 of 5 used, 1 asked for, 4 left"


def test_what_cuts_a_life_short_is_said_and_what_leaves_too_little_refuses() -> None:
    cut = explained(grant_message(), life=Validity(NOW, 60, "credentials"))
    assert verdict(cut, "life").found == "60 s, limited by the credentials"
    assert refusing(explained(grant_message(), life=TOO_SHORT)) == {"life": "expiry_too_short"}


def test_a_life_that_no_credentials_were_there_for_is_said_to_be_looked_at_in_part() -> None:
    explanation = explained(grant_message(), life=None)
    assert explanation.decision == "issue"
    assert "no" in verdict(explanation, "life").found


def test_parts_are_held_against_their_upload() -> None:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 60, "of": "b.0"}
    raw = grant_message(["acme/film.mp4"] * 2, grant=terms)
    raw["items"] = [{"key": "acme/film.mp4", "part": 3}, {"key": "acme/film.mp4", "part": 4}]
    found = verdict(explained(raw, upload=Upload()), "items").found
    assert found.endswith("1 of them refused: items[1].part part_invalid")
    gone = Refusal(code=Code.UPLOAD_UNKNOWN, field="grant.of", message="gone")
    explanation = explained(raw, upload=gone, life=None)
    assert refusing(explanation) == {"grant.of": "upload_unknown"}
