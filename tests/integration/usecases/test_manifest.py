"""A batch's answers are written to one file in its tenant's bucket, on a real storage."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Manifest
from tests.support.builders.manifest_service import BUCKET, ManifestService, chunks
from tests.support.builders.messages import POLICY, Clock, grant_message
from valetkey.wire.states import ManifestState
from worker.core.webhooks.retry import SCHEDULE
from worker.db.engine import read_transaction
from worker.db.manifests import ManifestQueue
from worker.devstack.storage import Storage
from worker.usecases.manifest import MOST_ATTEMPTS

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ONLY_PUTS = replace(POLICY, kinds=("download", "put"))


@pytest.fixture
def world(
    engine: Engine, seaweed: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> ManifestService:
    return ManifestService(engine, seaweed, clock, monkeypatch)


def test_a_manifest_has_a_line_for_each_answer_as_it_would_have_been_sent(
    world: ManifestService,
) -> None:
    asked = chunks()
    world.issue(asked)
    assert world.write() == (1, 0)
    assert world.lines(asked[0]["manifest"]) == world.twins(asked)
    content = world.stored(asked[0]["manifest"])
    assert content[4:8] == bytes(4)  # without a time in it, what is written again is the same
    assert world.state == ManifestState(
        key=asked[0]["manifest"],
        state="written",
        issued=3,
        refused=2,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    assert world.write() == (0, 0)


@ON_SQLITE
def test_outcomes_of_a_batch_with_a_manifest_only_count(world: ManifestService) -> None:
    asked = chunks()
    said = world.issue([*asked, asked[0]])
    told = [(one["status"], one["items"], one["issued"], one["refused"]) for one in said]
    counts: list[tuple[Any, ...]] = [("issued", [], *of) for of in ((1, 1), (1, 1), (1, 0))]
    assert told == [*counts, counts[0]]
    assert "http" not in json.dumps(said)


@ON_SQLITE
def test_the_answer_to_the_last_chunk_wakes_the_writer(world: ManifestService) -> None:
    assert [world.service.answer(one).completes for one in chunks()] == [False, False, True]
    assert not world.service.answer(grant_message()).completes


def test_nothing_is_written_while_chunks_are_missing(world: ManifestService) -> None:
    world.issue(chunks()[1:])
    assert world.write() == (0, 0)
    assert world.state.state == "pending"


@ON_SQLITE
def test_a_batch_that_is_refused_has_no_manifest(world: ManifestService) -> None:
    (said,) = world.issue(chunks(deadline="2020-01-01T00:00:00Z")[:1])
    assert (said["refusal"]["code"], said["issued"], said["refused"]) == ("deadline_passed", 0, 2)
    with read_transaction(world.engine) as connection:
        assert connection.execute(select(Manifest)).all() == []


def test_the_manifest_of_a_cancelled_batch_has_what_was_granted_before(
    world: ManifestService,
) -> None:
    first, second, third = chunks()
    world.issue([first, third])
    who = {name: first[name] for name in ("v", "tenant", "batch", "requested_by")}
    world.issue([{**who, "ask": "cancel"}])
    (late,) = world.issue([second])
    assert late["refusal"]["code"] == "batch_closed"
    assert world.write() == (1, 0)
    answers = world.twins([first, second, third])
    assert world.lines(first["manifest"]) == answers[:2] + answers[4:]
    assert (world.state.issued, world.state.refused) == (2, 1)


@ON_SQLITE
def test_a_chunk_that_is_refused_as_a_whole_has_its_refusal_in_each_line(
    world: ManifestService,
) -> None:
    first, second, third = chunks()
    world.issue([first])
    world.declare(replace(POLICY, max_expires_in=60))
    world.issue([second, third])
    assert world.write() == (1, 0)
    codes = [(line["key"], line.get("code")) for line in world.lines(first["manifest"])[2:]]
    keys = [item["key"] for one in (second, third) for item in one["items"]]
    assert codes == [(key, "expiry_too_long") for key in keys]
    assert (world.state.issued, world.state.refused) == (1, 4)


@ON_SQLITE
def test_a_bucket_that_takes_nothing_is_tried_again_and_then_given_up_with_its_reason(
    world: ManifestService,
) -> None:
    world.issue(chunks())
    world.declare(POLICY, bucket="missing")
    problem = "storage did not take it: NoSuchBucket"
    for attempt in range(1, MOST_ATTEMPTS):
        assert (world.write(), world.write()) == ((0, 1), (0, 0))
        assert (world.state.state, world.state.problem) == ("pending", problem)
        world.pass_by(SCHEDULE[attempt])
    assert world.write() == (0, 1)
    assert (world.state.state, world.state.problem) == ("failed", problem)
    world.pass_by(SCHEDULE[-1])
    assert world.write() == (0, 0)


@ON_SQLITE
@pytest.mark.parametrize("lost", [{"kinds": ("download",)}, {"prefixes": ("other/",)}])
def test_what_the_tenant_may_no_longer_store_is_not_written(
    world: ManifestService, lost: dict[str, Any]
) -> None:
    world.issue(chunks())
    world.declare(replace(POLICY, **lost))
    assert world.write() == (0, 1)
    problem = "the tenant may no longer store it"
    assert (world.state.state, world.state.problem) == ("failed", problem)


@ON_SQLITE
def test_another_object_is_only_replaced_where_policy_says_so(world: ManifestService) -> None:
    asked = chunks()
    world.files.put_object(Bucket=BUCKET, Key=asked[0]["manifest"], Body=b"mine")
    world.declare(ONLY_PUTS)
    world.issue(asked)
    assert world.write() == (0, 1)
    problem = "another object has this key, and policy does not let it be replaced"
    assert (world.state.state, world.state.problem) == ("failed", problem)
    found = world.files.get_object(Bucket=BUCKET, Key=asked[0]["manifest"])
    assert found["Body"].read() == b"mine"


@ON_SQLITE
def test_a_manifest_that_was_stored_and_not_reported_is_found_to_be_there(
    world: ManifestService,
) -> None:
    class Mute(ManifestQueue):
        def settle(self, *_: Any) -> bool:
            raise KeyboardInterrupt

    asked = chunks()
    world.declare(ONLY_PUTS)
    world.issue(asked)
    with pytest.raises(KeyboardInterrupt):
        world.write(manifests=Mute(world.engine, lambda: "mute"))
    content = world.stored(asked[0]["manifest"])
    world.pass_by()
    assert world.write() == (1, 0)
    assert world.stored(asked[0]["manifest"]) == content
    assert world.state.sha256 == hashlib.sha256(content).hexdigest()
