from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, POLICY, grant_message, put_message, upload_message
from valetkey.errors import NoAnswer, NotStored
from valetkey.manifests import poll_intervals, written_state
from valetkey.wire.messages import ChunkMessage, Outcome
from valetkey.wire.parsing import parse_message
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.states import BatchState, ManifestState
from worker.core.policy.admission import Admission, admit
from worker.core.policy.request_rules import may_overwrite_manifest
from worker.core.tenants.config import Policy, Tenant, TenantConfig

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = "acme/2026-11.jsonl.gz"


def decided(raw: dict[str, Any], policy: Policy = POLICY) -> Admission | Refusal:
    known = TenantConfig({"demo": DEMO}, {"acme": Tenant("acme", policies={"demo": policy})})
    return admit(ChunkMessage.model_validate(raw), known, NOW)


def refusal(raw: dict[str, Any], policy: Policy = POLICY) -> tuple[str, str, Any]:
    said = decided(raw, policy)
    assert isinstance(said, Refusal)
    assert said.key is None
    return said.code.value, said.field, said.limit


@pytest.mark.parametrize("raw", [grant_message(), upload_message(), put_message({"acme/a": 1})])
def test_a_manifest_may_be_of_downloads_uploads_and_puts(raw: dict[str, Any]) -> None:
    assert isinstance(decided(raw | {"manifest": KEY}), Admission)


@pytest.mark.parametrize("kind", ["multipart", "parts"])
def test_other_kinds_have_no_manifest(kind: str) -> None:
    own = {"max_size": 9} if kind == "multipart" else {"of": "0199.0"}
    terms = {"kind": kind, "bucket": "demo", "expires_in": 60, **own}
    said = refusal(grant_message(grant=terms, manifest=KEY))
    assert said == ("manifest_not_allowed", "manifest", ["download", "upload", "put"])


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("", "key_empty"),
        ("acme/../b", "key_traversal"),
        ("globex/b", "key_outside_prefix"),
        ("acme/a\ud800", "key_invalid"),
    ],
)
def test_a_manifests_key_is_held_against_the_rules_of_every_key(key: str, code: str) -> None:
    assert refusal(grant_message(manifest=key))[:2] == (code, "manifest")


def test_who_may_store_nothing_has_no_manifest_stored() -> None:
    policy = replace(POLICY, kinds=("download", "multipart"))
    said = refusal(grant_message(manifest=KEY), policy)
    assert said == ("manifest_not_allowed", "manifest", ["download", "multipart"])


@pytest.mark.parametrize(
    ("kinds", "overwrite", "may"),
    [(("upload",), False, True), (("put",), False, False), (("put",), True, True)],
)
def test_a_manifest_replaces_what_a_grant_could(kinds: Any, overwrite: bool, may: bool) -> None:  # noqa: FBT001 - a case
    assert may_overwrite_manifest(replace(POLICY, kinds=kinds, overwrite=overwrite)) == may


def test_a_manifest_that_is_no_text_is_refused_by_its_field() -> None:
    said = parse_message(grant_message(manifest=7))
    assert isinstance(said, Refusal)
    assert (said.code, said.field) == (Code.KEY_INVALID, "manifest")


@pytest.mark.parametrize(
    ("asked", "counts", "is_answer"),
    [
        ({"manifest": KEY}, {"issued": 1, "refused": 1}, True),
        ({"manifest": KEY}, {"issued": 1, "refused": 0}, False),
        ({"manifest": KEY}, {}, False),
        ({}, {"issued": 1, "refused": 1}, False),
    ],
)
def test_counts_answer_only_what_asked_for_a_manifest_and_all_of_it(
    asked: dict[str, str],
    counts: dict[str, int],
    is_answer: bool,  # noqa: FBT001 - a case
) -> None:
    said = grant_message(["acme/a", "acme/b"], **asked)
    head = {"batch": said["batch"], "chunk": 0, "status": "issued"}
    reply = Outcome.model_validate(head | counts)
    assert PendingMessage("x", said).is_answered_by(reply) == is_answer


def state(**manifest: Any) -> BatchState:
    told = ManifestState(key=KEY, **manifest) if manifest else None
    counts = {"total": 1, "chunk_size": 1, "decided": 1, "issued": 1, "refused": 0}
    of = {"batch": "b", "kind": "download", "bucket": "demo", "manifest": told}
    return BatchState.model_validate(of | counts)


def test_a_manifest_is_there_once_it_is_written() -> None:
    assert (
        written_state(state(state="pending", problem="storage did not take it: SlowDown")) is None
    )
    found = written_state(state(state="written", bytes=3, sha256="ab"))
    assert found is not None
    assert (found.bytes, found.sha256) == (3, "ab")


def test_a_manifest_that_failed_says_why() -> None:
    with pytest.raises(NotStored, match=r"2026-11\.jsonl\.gz' was not written: AccessDenied"):
        written_state(state(state="failed", problem="AccessDenied"))


def test_without_a_manifest_there_is_none_to_wait_for() -> None:
    with pytest.raises(ValueError, match="no manifest was asked for"):
        written_state(state())


def test_looks_become_rarer_and_end_with_the_time() -> None:
    times: Iterator[float] = iter([0, 0, 1, 2, 8, 9.9, 10])
    looks = poll_intervals(10, lambda: next(times))
    assert [round(next(looks), 2) for _ in range(5)] == [0.25, 0.5, 1, 2, 0.1]
    with pytest.raises(NoAnswer, match="within 10 s"):
        next(looks)
