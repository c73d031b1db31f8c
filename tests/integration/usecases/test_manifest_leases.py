"""Whoever writes a manifest may be killed, stand still or be late: it is written once, whole."""

from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.builders.manifest_service import KEYS, ManifestService, chunks
from tests.support.builders.messages import Clock
from worker.core.policy.decisions import RecordedChunk
from worker.db.ledger import Ledger
from worker.db.manifests import LEASE_TIME, ManifestNotWritten
from worker.devstack.storage import Storage
from worker.usecases.manifest import MOST_ATTEMPTS

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def world(
    engine: Engine, seaweed: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> ManifestService:
    return ManifestService(engine, seaweed, clock, monkeypatch)


class Dying(Ledger):
    """A ledger whose process is killed as it reads the second chunk."""

    def recorded(self, batch: int, chunk: int) -> RecordedChunk:
        if chunk == 1:
            raise KeyboardInterrupt
        return super().recorded(batch, chunk)


def test_what_a_killed_writer_left_is_written_when_its_lease_has_lapsed(
    world: ManifestService,
) -> None:
    asked = chunks()
    world.issue(asked)
    answers = world.twins(asked)
    with pytest.raises(KeyboardInterrupt):
        world.write(ledger=Dying(world.engine))
    assert world.write() == (0, 0)
    world.pass_by()
    assert world.write() == (1, 0)
    assert world.lines(asked[0]["manifest"]) == answers


@ON_SQLITE
def test_what_kills_each_writer_is_not_begun_for_ever(world: ManifestService) -> None:
    world.issue(chunks())
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            world.write(ledger=Dying(world.engine))
        world.pass_by()
    assert world.write(ledger=Dying(world.engine)) == (0, 1)
    problem = "whoever wrote it was stopped each time"
    assert (world.state.state, world.state.problem) == ("failed", problem)


def test_a_writer_that_takes_long_keeps_its_lease(world: ManifestService) -> None:
    taken: list[Any] = []

    class Slow(Ledger):
        def recorded(self, batch: int, chunk: int) -> RecordedChunk:
            taken.append(world.leases.take(world.clock()))
            world.pass_by(LEASE_TIME / 2)
            return super().recorded(batch, chunk)

    world.issue(chunks(size=1))
    assert world.write(ledger=Slow(world.engine)) == (1, 0)
    assert taken == [None] * len(KEYS)


def test_a_writer_that_lost_its_lease_stops_and_reports_nothing(world: ManifestService) -> None:
    class Asleep(Ledger):
        def recorded(self, batch: int, chunk: int) -> RecordedChunk:
            if chunk == 0:
                world.pass_by()
                assert world.leases.take(world.clock()) is not None
            assert chunk == 0
            return super().recorded(batch, chunk)

    world.issue(chunks())
    assert world.write(ledger=Asleep(world.engine)) == (0, 0)
    assert world.state.state == "pending"


@ON_SQLITE
def test_only_the_newest_lease_may_report(world: ManifestService) -> None:
    world.issue(chunks())
    slow = world.leases.take(world.clock())
    world.pass_by()
    assert world.leases.take(world.clock()) is not None
    assert slow is not None
    assert not world.leases.settle(slow, ManifestNotWritten("no", None), world.clock())
    assert world.state.state == "pending"
