from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, POLICY, grant_message, put_message, upload_message
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Outcome
from worker.rules.admission import admit, may_overwrite_manifest
from worker.rules.policy_rules import RequestContext
from worker.rules.tenant_config import Policy, Tenant, TenantConfig

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = "acme/2026-11.jsonl.gz"


def decide(raw: dict[str, Any], policy: Policy = POLICY) -> RequestContext | Refusal:
    config = TenantConfig({"demo": DEMO}, {"acme": Tenant("acme", policies={"demo": policy})})
    return admit(ChunkMessage.model_validate(raw), config.tenants["acme"], config, NOW)


def refusal_of(raw: dict[str, Any], policy: Policy = POLICY) -> tuple[str, str, Any]:
    refusal = decide(raw, policy)
    assert isinstance(refusal, Refusal)
    assert refusal.key is None
    return str(refusal.code), refusal.field, refusal.limit


@pytest.mark.parametrize("raw", [grant_message(), upload_message(), put_message({"acme/a": 1})])
def test_a_manifest_may_be_of_downloads_uploads_and_puts(raw: dict[str, Any]) -> None:
    assert isinstance(decide(raw | {"manifest": KEY}), RequestContext)


@pytest.mark.parametrize(
    "terms", [{"kind": "multipart", "max_size": 9}, {"kind": "parts", "of": "a"}]
)
def test_other_kinds_have_no_manifest(terms: dict[str, Any]) -> None:
    grant = {"bucket": "demo", "expires_in": 60, **terms}
    refusal = refusal_of(grant_message(grant=grant, manifest=KEY))
    assert refusal == ("manifest_not_allowed", "manifest", ["download", "upload", "put"])


def test_a_manifest_needs_permission_to_store_objects() -> None:
    policy = replace(POLICY, kinds=("download", "multipart"))
    refusal = refusal_of(grant_message(manifest=KEY), policy)
    assert refusal == ("manifest_not_allowed", "manifest", ["put", "upload"])


@pytest.mark.parametrize(
    ("kinds", "overwrite", "may"),
    [(("upload",), False, True), (("put",), False, False), (("put",), True, True)],
)
def test_a_manifest_may_overwrite_what_a_grant_may(kinds: Any, overwrite: bool, may: bool) -> None:  # noqa: FBT001 - a case
    assert may_overwrite_manifest(replace(POLICY, kinds=kinds, overwrite=overwrite)) == may


@pytest.mark.parametrize(
    ("fields", "counts", "is_answer"),
    [
        ({"manifest": KEY}, {"issued": 1, "refused": 1}, True),
        ({"manifest": KEY}, {"issued": 1, "refused": 0}, False),
        ({"manifest": KEY}, {}, False),
        ({}, {"issued": 1, "refused": 1}, False),
    ],
)
def test_counts_answer_only_a_chunk_with_a_manifest_and_only_if_complete(
    fields: dict[str, str],
    counts: dict[str, int],
    is_answer: bool,  # noqa: FBT001 - a case
) -> None:
    body = grant_message(["acme/a", "acme/b"], **fields)
    header = {"batch": body["batch"], "chunk": 0, "status": "issued"}
    reply = Outcome.model_validate(header | counts)
    assert PendingMessage("x", body).is_answered_by(reply) == is_answer
