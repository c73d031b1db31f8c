"""Writes the results of a batch as one file to its tenant's bucket, on a real storage."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from models import Manifest
from tests.integration.conftest import ApplyConfig
from tests.support.builders.manifest_service import (
    BUCKET,
    OBJECT_KEYS,
    ManifestService,
    manifest_chunks,
)
from tests.support.builders.messages import POLICY, grant_message
from tests.support.fakes.http_storage import StorageResponse, running_http_storage
from valetkey.wire.replies import ManifestState
from worker.aws.clients import S3Clients
from worker.core.tenants.config import TenantConfig
from worker.core.webhooks.retry import SCHEDULE
from worker.db.engine import read_transaction
from worker.usecases.upkeep import manifest
from worker.usecases.upkeep.manifest import MAX_ATTEMPTS

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ONLY_PUTS = replace(POLICY, kinds=("download", "put"))


def test_a_manifest_has_a_line_for_each_result_as_it_would_be_sent(
    manifests: ManifestService,
) -> None:
    chunks = manifest_chunks()
    manifests.issue(chunks)
    assert manifests.write() == (1, 0)
    object_key = chunks[0]["manifest"]
    assert manifests.read_lines(object_key) == manifests.twin_results(chunks)
    content = manifests.read_object(object_key)
    assert content[4:8] == bytes(4)  # gzip's timestamp: a file that is written again is the same
    assert manifests.state == ManifestState(
        key=object_key,
        state="written",
        issued=3,
        refused=2,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    assert manifests.write() == (0, 0)


@ON_SQLITE
def test_outcomes_of_a_batch_with_a_manifest_contain_only_counts(
    manifests: ManifestService,
) -> None:
    chunks = manifest_chunks()
    outcomes = manifests.issue([*chunks, chunks[0]])
    expected: list[tuple[Any, ...]]
    expected = [("issued", [], 1, 1), ("issued", [], 1, 1), ("issued", [], 1, 0)]
    assert [
        (outcome["status"], outcome["items"], outcome["issued"], outcome["refused"])
        for outcome in outcomes
    ] == [*expected, expected[0]]
    assert "http" not in json.dumps(outcomes)


@ON_SQLITE
def test_the_response_to_the_last_chunk_triggers_the_writer(manifests: ManifestService) -> None:
    responses = [manifests.service.respond(chunk) for chunk in manifest_chunks()]
    assert [response.may_complete_manifest for response in responses] == [False, False, True]
    assert not manifests.service.respond(grant_message()).may_complete_manifest


def test_nothing_is_written_while_chunks_are_missing(manifests: ManifestService) -> None:
    manifests.issue(manifest_chunks()[1:])
    assert manifests.write() == (0, 0)
    assert manifests.state.state == "pending"


@ON_SQLITE
def test_a_batch_that_is_refused_has_no_manifest(manifests: ManifestService) -> None:
    (outcome,) = manifests.issue(manifest_chunks(deadline="2020-01-01T00:00:00Z")[:1])
    assert outcome["refusal"]["code"] == "deadline_passed"
    assert (outcome["issued"], outcome["refused"]) == (0, 2)
    with read_transaction(manifests.engine) as connection:
        assert connection.execute(select(Manifest)).all() == []


def test_the_manifest_of_a_cancelled_batch_contains_what_was_granted_before(
    manifests: ManifestService,
) -> None:
    first, second, third = manifest_chunks()
    manifests.issue([first, third])
    cancel = {name: first[name] for name in ("v", "tenant", "batch", "requested_by")}
    manifests.issue([{**cancel, "ask": "cancel"}])
    (late_outcome,) = manifests.issue([second])
    assert late_outcome["refusal"]["code"] == "batch_closed"
    assert manifests.write() == (1, 0)
    results = manifests.twin_results([first, second, third])
    assert manifests.read_lines(first["manifest"]) == results[:2] + results[4:]
    assert (manifests.state.issued, manifests.state.refused) == (2, 1)


@ON_SQLITE
def test_a_chunk_that_is_refused_as_a_whole_has_its_refusal_in_each_line(
    manifests: ManifestService,
) -> None:
    first, second, third = manifest_chunks()
    manifests.issue([first])
    manifests.apply_policy(replace(POLICY, max_expires_in=60))
    manifests.issue([second, third])
    manifests.apply_policy(POLICY)
    assert manifests.write() == (1, 0)
    lines = manifests.read_lines(first["manifest"])[2:]
    object_keys = [item["key"] for chunk in (second, third) for item in chunk["items"]]
    assert [(line["key"], line.get("code")) for line in lines] == [
        (object_key, "expiry_too_long") for object_key in object_keys
    ]
    assert (manifests.state.issued, manifests.state.refused) == (1, 4)


@ON_SQLITE
def test_a_batch_that_policy_no_longer_allows_has_no_grant_in_its_manifest(
    manifests: ManifestService,
) -> None:
    chunks = manifest_chunks()
    manifests.issue(chunks)
    manifests.apply_policy(replace(POLICY, max_batch=len(OBJECT_KEYS) - 1))
    assert manifests.write() == (1, 0)
    codes = [line.get("code") for line in manifests.read_lines(chunks[0]["manifest"])]
    assert codes == ["batch_too_large"] * len(OBJECT_KEYS)


@ON_SQLITE
def test_a_manifest_that_storage_refuses_has_failed_at_once_with_storages_words(
    manifests: ManifestService,
) -> None:
    manifests.issue(manifest_chunks())
    manifests.apply_policy(POLICY, bucket="missing")
    assert (manifests.write(), manifests.write()) == ((0, 1), (0, 0))
    problem = "storage refused it: NoSuchBucket: The specified bucket does not exist"
    assert (manifests.state.state, manifests.state.problem) == ("failed", problem)
    manifests.wait(SCHEDULE[-1])
    assert manifests.write() == (0, 0)


@ON_SQLITE
def test_a_manifest_is_retried_while_storage_is_busy_and_then_reported_as_failed(
    manifests: ManifestService,
) -> None:
    busy = StorageResponse(503, body=b"<Error><Code>SlowDown</Code></Error>")
    with running_http_storage(lambda _: busy) as storage:
        manifests.issue(manifest_chunks())
        s3 = S3Clients(storage.url)
        problem = "storage cannot do it now: SlowDown"
        for attempt in range(1, MAX_ATTEMPTS):
            assert manifests.write(s3=s3) == (0, 1)
            assert (manifests.state.state, manifests.state.problem) == ("pending", problem)
            manifests.wait(SCHEDULE[attempt])
        assert manifests.write(s3=s3) == (0, 1)
    assert (manifests.state.state, manifests.state.problem) == ("failed", problem)


@ON_SQLITE
@pytest.mark.parametrize("changes", [{"kinds": ("download",)}, {"prefixes": ("other/",)}])
def test_a_manifest_that_policy_no_longer_allows_is_not_written(
    manifests: ManifestService, changes: dict[str, Any]
) -> None:
    manifests.issue(manifest_chunks())
    manifests.apply_policy(replace(POLICY, **changes))
    assert manifests.write() == (0, 1)
    problem = "the tenant's policy no longer allows it to be stored"
    assert (manifests.state.state, manifests.state.problem) == ("failed", problem)


@ON_SQLITE
def test_another_object_is_only_replaced_if_policy_allows_it(manifests: ManifestService) -> None:
    chunks = manifest_chunks()
    object_key = chunks[0]["manifest"]
    manifests.storage.put_object(Bucket=BUCKET, Key=object_key, Body=b"mine")
    manifests.apply_policy(ONLY_PUTS)
    manifests.issue(chunks)
    assert manifests.write() == (0, 1)
    problem = "another object has this key, and the policy does not allow overwriting it"
    assert (manifests.state.state, manifests.state.problem) == ("failed", problem)
    response = manifests.storage.get_object(Bucket=BUCKET, Key=object_key)
    assert response["Body"].read() == b"mine"


@ON_SQLITE
def test_a_manifest_that_was_stored_but_not_settled_is_accepted_by_the_next_attempt(
    manifests: ManifestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> bool:
        raise KeyboardInterrupt

    chunks = manifest_chunks()
    manifests.apply_policy(ONLY_PUTS)
    manifests.issue(chunks)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "settle_manifest", kill)
        with pytest.raises(KeyboardInterrupt):
            manifests.write()
    content = manifests.read_object(chunks[0]["manifest"])
    manifests.wait()
    assert manifests.write() == (1, 0)
    assert manifests.read_object(chunks[0]["manifest"]) == content
    assert manifests.state.sha256 == hashlib.sha256(content).hexdigest()


def test_a_manifest_of_a_removed_tenant_is_not_written_under_the_new_ones_policy(
    manifests: ManifestService, apply_config: ApplyConfig
) -> None:
    manifests.issue(manifest_chunks())
    apply_config(TenantConfig())
    manifests.apply_policy(POLICY)
    assert manifests.write() == (0, 1)
    assert manifests.state.problem == "the tenant's policy no longer allows it to be stored"
