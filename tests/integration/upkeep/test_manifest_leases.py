"""A manifest is written once and whole, even if its writer is killed, suspended or late."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from tests.support.builders.manifest_service import OBJECT_KEYS, ManifestService, manifest_chunks
from worker.context import Context
from worker.core.policy.decisions import RecordedChunk
from worker.db.engine import write_transaction
from worker.db.manifests import LEASE_TIME, ManifestLease, ManifestProblem, settle_manifest
from worker.usecases.reissue import read_recorded
from worker.usecases.upkeep import manifest_file
from worker.usecases.upkeep.manifest import MAX_ATTEMPTS

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ReadRecorded = Callable[[int, int, Context], RecordedChunk]


def write_with(manifests: ManifestService, read: ReadRecorded) -> tuple[int, int]:
    """Write what is due in a process that reads each chunk with this function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_file, "read_recorded", read)
        return manifests.write()


def die_at_second_chunk(batch_number: int, chunk_number: int, context: Context) -> RecordedChunk:
    """Read a chunk as a process that is killed when it reads the second one."""
    if chunk_number == 1:
        raise KeyboardInterrupt
    return read_recorded(batch_number, chunk_number, context)


def test_a_manifest_whose_writer_was_killed_is_written_when_its_lease_has_expired(
    manifests: ManifestService,
) -> None:
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
def test_a_manifest_that_kills_each_writer_fails_after_the_last_attempt(
    manifests: ManifestService,
) -> None:
    manifests.issue(manifest_chunks())
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            write_with(manifests, die_at_second_chunk)
        manifests.wait()
    assert write_with(manifests, die_at_second_chunk) == (0, 1)
    problem = "every process that wrote it was stopped"
    assert (manifests.state.state, manifests.state.problem) == ("failed", problem)


def test_a_slow_writer_keeps_its_lease(manifests: ManifestService) -> None:
    leases: list[ManifestLease | None] = []

    def read_slowly(batch_number: int, chunk_number: int, context: Context) -> RecordedChunk:
        leases.append(manifests.lease())
        manifests.wait(LEASE_TIME / 2)
        return read_recorded(batch_number, chunk_number, context)

    manifests.issue(manifest_chunks(size=1))
    assert write_with(manifests, read_slowly) == (1, 0)
    assert leases == [None] * len(OBJECT_KEYS)


def test_a_writer_that_lost_its_lease_stops_and_reports_nothing(
    manifests: ManifestService,
) -> None:
    def lose_lease(batch_number: int, chunk_number: int, context: Context) -> RecordedChunk:
        assert chunk_number == 0
        manifests.wait()
        assert manifests.lease() is not None
        return read_recorded(batch_number, chunk_number, context)

    manifests.issue(manifest_chunks())
    assert write_with(manifests, lose_lease) == (0, 0)
    assert manifests.state.state == "pending"


@ON_SQLITE
def test_only_the_newest_lease_may_settle(manifests: ManifestService, engine: Engine) -> None:
    manifests.issue(manifest_chunks())
    expired = manifests.lease()
    manifests.wait()
    assert manifests.lease() is not None
    assert expired is not None
    with write_transaction(engine) as connection:
        result = ManifestProblem("no", None)
        assert not settle_manifest(connection, expired, result, manifests.clock())
    assert manifests.state.state == "pending"
