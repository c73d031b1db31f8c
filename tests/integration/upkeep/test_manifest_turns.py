"""Manifests of several tenants: written at once, in fair turns; a failure stops no other."""

from collections.abc import Callable
from threading import Event, Lock

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from models import Batch, Manifest
from tests.support.builders.manifest_service import ManifestService, manifest_chunks
from tests.support.servers.waiting import wait_until
from worker.context import Context
from worker.db.engine import read_transaction
from worker.db.manifests import ManifestLease, ManifestWritten
from worker.jobs.single_flight import SingleFlight
from worker.usecases.upkeep import manifest
from worker.usecases.upkeep.manifest import LIMITS, MAX_ATTEMPTS, write_due_manifests

WRITTEN = ManifestWritten(1, 0, 1, "0" * 64)
Write = Callable[[ManifestLease, Context], ManifestWritten]


def issue(manifests: ManifestService, tenant: str, count: int = 1) -> None:
    for _ in range(count):
        manifests.issue([chunk | {"tenant": tenant} for chunk in manifest_chunks(size=5)])


def states(manifests: ManifestService, tenant: str) -> list[tuple[str, str | None]]:
    query = select(Manifest.state, Manifest.problem).join(
        Batch, Batch.batch_number == Manifest.batch_number
    )
    with read_transaction(manifests.engine) as connection:
        rows = connection.execute(query.where(Batch.tenant == tenant))
        return [(row.state, row.problem) for row in rows]


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
    monkeypatch.setattr(manifest, "write_manifest", writer)
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

    monkeypatch.setattr(manifest, "write_manifest", fail_for_acme)
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


def test_a_process_that_stops_starts_no_further_manifest(manifests: ManifestService) -> None:
    issue(manifests, "acme")
    job = SingleFlight("manifests", lambda run: write_due_manifests(manifests.context, run))
    job.stop()
    job.trigger()
    job.join(30)
    assert states(manifests, "acme") == [("pending", None)]
