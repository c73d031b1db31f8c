"""Writes the results of a batch as one file to its tenant's bucket, on a real storage.

It is written once and whole, even if its writer is killed, suspended or late. Those of several
tenants are written at once, in fair turns.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from threading import Event, Lock
from typing import Any

import pytest
from structlog.testing import capture_logs

from models import Batch, Manifest
from tests.support.builders.manifest_service import (
    BUCKET,
    OBJECT_KEYS,
    ManifestService,
    manifest_chunks,
)
from tests.support.builders.messages import POLICY, grant_message
from tests.support.builders.triggers import triggered_tasks
from tests.support.fakes.http_storage import StorageResponse, running_http_storage
from tests.support.servers.waiting import wait_until
from valetkey.wire.replies import ManifestState
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import write_transaction
from worker.base.jobs import SingleFlight
from worker.context import Context
from worker.issue.chunk_signing import read_recorded
from worker.rules.decisions import RecordedChunk
from worker.rules.tenant_config import TenantConfig
from worker.webhooks import manifest_writer
from worker.webhooks.manifest_writer import LIMITS, MAX_ATTEMPTS, write_due_manifests
from worker.webhooks.outbox import (
    MANIFEST_LEASE_TIME,
    ManifestLease,
    ManifestProblem,
    ManifestWritten,
    settle_manifest,
)
from worker.webhooks.webhook_rules import RETRY_SCHEDULE

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ONLY_PUTS = replace(POLICY, kinds=("download", "put"))
NOT_ALLOWED = "the tenant's policy no longer allows it to be stored"


def outcome(manifests: ManifestService) -> tuple[str, str | None]:
    return manifests.state.state, manifests.state.problem


def test_a_manifest_has_each_result_as_it_would_be_sent(manifests: ManifestService) -> None:
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
def test_outcomes_of_a_batch_with_a_manifest_have_only_counts(manifests: ManifestService) -> None:
    chunks = manifest_chunks()
    outcomes = manifests.issue([*chunks, chunks[0]])
    counts = [(each["issued"], each["refused"]) for each in outcomes]
    assert counts == [(1, 1), (1, 1), (1, 0), (1, 1)]
    assert all((each["status"], each["items"]) == ("issued", []) for each in outcomes)
    assert "http" not in json.dumps(outcomes)


@ON_SQLITE
def test_the_response_to_the_last_chunk_triggers_the_writer(manifests: ManifestService) -> None:
    responses = [manifests.service.respond(chunk) for chunk in manifest_chunks()]
    assert [triggered_tasks(response) for response in responses] == [[], [], ["valetkey.manifests"]]
    assert triggered_tasks(manifests.service.respond(grant_message())) == []


@ON_SQLITE
def test_a_batch_that_is_refused_has_no_manifest(manifests: ManifestService) -> None:
    (refused,) = manifests.issue(manifest_chunks(deadline="2020-01-01T00:00:00Z")[:1])
    assert refused["refusal"]["code"] == "deadline_passed"
    assert (refused["issued"], refused["refused"]) == (0, 2)
    assert manifests.service.rows(Manifest) == []


def test_a_cancelled_batch_has_what_was_granted_before(manifests: ManifestService) -> None:
    first, second, third = manifest_chunks()
    manifests.issue([first, third])
    manifests.service.cancel(first["batch"])
    assert manifests.service.refusal_code(second) == "batch_closed"
    assert manifests.write() == (1, 0)
    results = manifests.twin_results([first, second, third])
    assert manifests.read_lines(first["manifest"]) == results[:2] + results[4:]
    assert (manifests.state.issued, manifests.state.refused) == (2, 1)


@ON_SQLITE
def test_a_refused_chunk_has_its_refusal_in_each_line(manifests: ManifestService) -> None:
    first, second, third = manifest_chunks()
    manifests.issue([first])
    manifests.apply_policy(replace(POLICY, max_expires_in=60))
    manifests.issue([second, third])
    manifests.apply_policy(POLICY)
    assert manifests.write() == (1, 0)
    lines = manifests.read_lines(first["manifest"])[2:]
    assert [line["key"] for line in lines] == list(OBJECT_KEYS[2:])
    assert {line.get("code") for line in lines} == {"expiry_too_long"}
    assert (manifests.state.issued, manifests.state.refused) == (1, 4)


@ON_SQLITE
def test_a_manifest_that_storage_refuses_fails_at_once(manifests: ManifestService) -> None:
    manifests.issue(manifest_chunks())
    manifests.apply_policy(POLICY, bucket="missing")
    assert (manifests.write(), manifests.write()) == ((0, 1), (0, 0))
    problem = "storage refused it: NoSuchBucket: The specified bucket does not exist"
    assert outcome(manifests) == ("failed", problem)
    manifests.wait(RETRY_SCHEDULE[-1])
    assert manifests.write() == (0, 0)


@ON_SQLITE
def test_a_manifest_is_retried_while_storage_is_busy(manifests: ManifestService) -> None:
    busy = StorageResponse(503, body=b"<Error><Code>SlowDown</Code></Error>")
    with running_http_storage(lambda _: busy) as storage:
        manifests.issue(manifest_chunks())
        s3 = S3Clients(storage.url)
        problem = "storage cannot do it now: SlowDown"
        for attempt in range(1, MAX_ATTEMPTS):
            assert manifests.write(s3=s3) == (0, 1)
            assert outcome(manifests) == ("pending", problem)
            manifests.wait(RETRY_SCHEDULE[attempt])
        assert manifests.write(s3=s3) == (0, 1)
    assert outcome(manifests) == ("failed", problem)


@pytest.mark.parametrize("changes", [{"kinds": ("download",)}, {"prefixes": ("other/",)}, None])
def test_a_manifest_that_policy_no_longer_allows_or_of_a_removed_tenant_is_not_written(
    manifests: ManifestService, changes: dict[str, Any] | None
) -> None:
    manifests.issue(manifest_chunks())
    if changes is None:
        manifests.service.apply(TenantConfig())
    manifests.apply_policy(replace(POLICY, **changes or {}))
    assert manifests.write() == (0, 1)
    assert outcome(manifests) == ("failed", NOT_ALLOWED)


@ON_SQLITE
def test_another_object_is_only_replaced_if_policy_allows_it(manifests: ManifestService) -> None:
    chunks = manifest_chunks()
    object_key = chunks[0]["manifest"]
    manifests.storage.put_object(Bucket=BUCKET, Key=object_key, Body=b"mine")
    manifests.apply_policy(ONLY_PUTS)
    manifests.issue(chunks)
    assert manifests.write() == (0, 1)
    problem = "another object has this key, and the policy does not allow overwriting it"
    assert outcome(manifests) == ("failed", problem)
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
        patch.setattr(manifest_writer, "settle_manifest", kill)
        with pytest.raises(KeyboardInterrupt):
            manifests.write()
    content = manifests.read_object(chunks[0]["manifest"])
    manifests.wait()
    assert manifests.write() == (1, 0)
    assert manifests.read_object(chunks[0]["manifest"]) == content
    assert manifests.state.sha256 == hashlib.sha256(content).hexdigest()


def write_with(
    manifests: ManifestService, read: Callable[[int, int, Context], RecordedChunk]
) -> tuple[int, int]:
    """Write what is due in a process that reads each chunk with this function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_writer, "read_recorded", read)
        return manifests.write()


def die_at_second_chunk(batch_number: int, chunk_number: int, context: Context) -> RecordedChunk:
    """Read a chunk as a process that is killed when it reads the second one."""
    if chunk_number == 1:
        raise KeyboardInterrupt
    return read_recorded(batch_number, chunk_number, context)


def test_a_manifest_whose_writer_was_killed_is_written_later(manifests: ManifestService) -> None:
    chunks = manifest_chunks()
    manifests.issue(chunks)
    results = manifests.twin_results(chunks)
    with pytest.raises(KeyboardInterrupt):
        write_with(manifests, die_at_second_chunk)
    assert manifests.write() == (0, 0)
    manifests.wait()
    assert manifests.write() == (1, 0)
    assert manifests.read_lines(chunks[0]["manifest"]) == results


@ON_SQLITE
def test_a_manifest_that_kills_each_writer_fails_at_last(manifests: ManifestService) -> None:
    manifests.issue(manifest_chunks())
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            write_with(manifests, die_at_second_chunk)
        manifests.wait()
    assert write_with(manifests, die_at_second_chunk) == (0, 1)
    assert outcome(manifests) == ("failed", "every process that wrote it was stopped")


def test_a_slow_writer_keeps_its_lease(manifests: ManifestService) -> None:
    leases: list[ManifestLease | None] = []

    def read_slowly(batch_number: int, chunk_number: int, context: Context) -> RecordedChunk:
        leases.append(manifests.lease())
        manifests.wait(MANIFEST_LEASE_TIME / 2)
        return read_recorded(batch_number, chunk_number, context)

    manifests.issue(manifest_chunks(size=1))
    assert write_with(manifests, read_slowly) == (1, 0)
    assert leases == [None] * len(OBJECT_KEYS)


def test_a_writer_that_lost_its_lease_stops_and_reports_nothing(manifests: ManifestService) -> None:
    def lose_lease(batch_number: int, chunk_number: int, context: Context) -> RecordedChunk:
        assert chunk_number == 0
        manifests.wait()
        assert manifests.lease() is not None
        return read_recorded(batch_number, chunk_number, context)

    manifests.issue(manifest_chunks())
    assert write_with(manifests, lose_lease) == (0, 0)
    assert manifests.state.state == "pending"


@ON_SQLITE
def test_only_the_newest_lease_may_settle(manifests: ManifestService) -> None:
    manifests.issue(manifest_chunks())
    expired = manifests.lease()
    manifests.wait()
    assert manifests.lease() is not None
    assert expired is not None
    with write_transaction(manifests.engine) as connection:
        result = ManifestProblem("no", None)
        assert not settle_manifest(connection, expired, result, manifests.clock())
    assert manifests.state.state == "pending"


WRITTEN = ManifestWritten(1, 0, 1, "0" * 64)


def issue(manifests: ManifestService, tenant: str, count: int = 1) -> None:
    for _ in range(count):
        manifests.issue([chunk | {"tenant": tenant} for chunk in manifest_chunks(size=5)])


def states(manifests: ManifestService, tenant: str) -> list[tuple[str, str | None]]:
    tenants = dict(manifests.service.rows(Batch.batch_number, Batch.tenant))
    rows = manifests.service.rows(Manifest)
    return [(row.state, row.problem) for row in rows if tenants[row.batch_number] == tenant]


class SlowWriter:
    """Writes manifests of acme only when the gate opens, and those of other tenants at once."""

    def __init__(self) -> None:
        self.gate = Event()
        self.most_running = 0
        self._running = 0
        self._lock = Lock()

    def __call__(self, lease: ManifestLease, *_: object) -> ManifestWritten:
        if lease.tenant_id == "acme":
            with self._lock:
                self._running += 1
                self.most_running = max(self.most_running, self._running)
            assert self.gate.wait(30)
            with self._lock:
                self._running -= 1
        return WRITTEN


def test_a_manifest_is_written_while_those_of_another_tenant_take_long(
    manifests: ManifestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SlowWriter()
    monkeypatch.setattr(manifest_writer, "write_manifest", writer)
    issue(manifests, "acme", 5)
    job = SingleFlight("manifests", lambda run: write_due_manifests(manifests.context, run))
    job.trigger()
    try:
        wait_until(lambda: writer.most_running == LIMITS.per_owner)
        issue(manifests, "twin")
        wait_until(lambda: states(manifests, "twin") == [("written", None)])
        assert {state for state, _ in states(manifests, "acme")} == {"pending"}
    finally:
        writer.gate.set()
        job.join(30)
    assert states(manifests, "acme") == [("written", None)] * 5
    assert writer.most_running == LIMITS.per_owner


def test_tenants_whose_batches_are_open_take_nobodys_turn(manifests: ManifestService) -> None:
    for _ in range(3):
        manifests.issue(manifest_chunks(size=1)[:1])
    issue(manifests, "twin")
    assert manifests.write() == (1, 0)
    assert states(manifests, "twin") == [("written", None)]


def test_an_unexpected_error_stops_no_other_manifest_and_ends_after_the_last_attempt(
    manifests: ManifestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_acme(lease: ManifestLease, *_: object) -> ManifestWritten:
        if lease.tenant_id == "acme":
            raise OverflowError("a detail that may be secret")
        return WRITTEN

    monkeypatch.setattr(manifest_writer, "write_manifest", fail_for_acme)
    issue(manifests, "acme")
    issue(manifests, "twin")
    with capture_logs() as logs:
        assert manifests.write() == (1, 1)
        for _ in range(MAX_ATTEMPTS):
            manifests.clock.forward(days=1)
            manifests.write()
    assert states(manifests, "acme") == [("failed", "an unexpected error: OverflowError")]
    assert states(manifests, "twin") == [("written", None)]
    assert [entry["event"] for entry in logs] == ["manifest_failed"] * MAX_ATTEMPTS
