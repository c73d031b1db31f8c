from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select

from models import ConfigChange, Leaf, StoredObject, Use
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    download_message,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import BUCKET, deleted, downloaded, stored
from worker.core.tenants.storage_names import storage_name
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction, write_transaction
from worker.db.uses import use_counts
from worker.usecases.uses.record import RecordedUses, record_uses

KEY = "acme/a.png"


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())


def issued_id(service: InProcessService, message: dict[str, Any]) -> str:
    grant_id: str = service.issue(message)["items"][0]["id"]
    return grant_id


def record(service: InProcessService, *reports: UseReport) -> RecordedUses:
    return record_uses(reports, service.context)


def rows(engine: Engine, *columns: Any) -> list[Any]:
    with read_transaction(engine) as connection:
        return list(connection.execute(select(*columns).order_by(*columns)))


def use_leaves(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(func.count()).select_from(Leaf).where(Leaf.kind == "use")
        return connection.execute(query).scalar_one()


def test_a_stored_object_is_recorded_with_its_leaf(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    grant_id = issued_id(service, upload_message())
    assert record(service, stored(grant_id, KEY, clock())).total == 1
    assert rows(engine, Use.event, Use.verdict, Use.size) == [("stored", "as_granted", 10)]
    assert use_leaves(engine) == 1


def test_a_use_that_is_told_again_is_recorded_once(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    grant_id = issued_id(service, upload_message())
    report = stored(grant_id, KEY, clock())
    assert record(service, report, report._replace(source="event")).total == 1
    again = record(service, report)
    assert (again.total, again.ignored) == (0, {"known": 1})
    assert use_leaves(engine) == 1


def test_downloads_are_counted_by_request(service: InProcessService, clock: Clock) -> None:
    grant_id = issued_id(service, download_message())
    first = downloaded(grant_id, "acme/a.pdf", clock())
    assert record(service, first, first._replace(request_id="R2"), first).total == 2


def test_reports_of_no_use_are_counted_by_reason(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    grant_id = issued_id(service, upload_message())
    report = stored(grant_id, KEY, clock())
    recorded = record(
        service,
        report._replace(grant_id=None),
        report._replace(grant_id="nonsense"),
        report._replace(grant_id=grant_id.replace(".0", ".1")),
        report._replace(object_key="acme/copy.png"),
        report._replace(event="completed"),
        report._replace(occurred_at=clock() - timedelta(days=1)),
        deleted("acme/unknown.png", clock()),
    )
    assert recorded.ignored == {
        "no_grant_id": 1,
        "unknown_object": 1,
        "unknown_grant": 2,
        "other_key": 1,
        "other_kind": 1,
        "before_issue": 1,
    }
    assert rows(engine, Use.fingerprint) == []


@pytest.mark.parametrize(
    "changes",
    [
        *({"size": size} for size in (-1, 2**53 + 1, 2**63, 10**30)),
        *({name: "a\0b"} for name in ("etag", "version", "checksum", "content_type")),
        {"etag": "\ud800"},
    ],
)
def test_a_report_that_no_table_can_keep_is_ignored(
    engine: Engine, service: InProcessService, clock: Clock, changes: dict[str, Any]
) -> None:
    report = stored(issued_id(service, upload_message()), KEY, clock())
    assert record(service, report._replace(**changes)).ignored == {"malformed": 1}
    assert rows(engine, Use.fingerprint) == []
    assert record(service, report).total == 1


def test_a_report_from_the_future_does_not_freeze_its_key(
    service: InProcessService, clock: Clock
) -> None:
    report = stored(issued_id(service, upload_message()), KEY, clock())
    ahead = report._replace(etag="future", occurred_at=clock() + timedelta(hours=2))
    assert record(service, ahead).ignored == {"malformed": 1}
    record(service, report)
    assert record(service, deleted(KEY, clock() + timedelta(seconds=5))).total == 1


def test_a_neighbour_that_copies_a_batch_id_later_takes_no_use_away(
    engine: Engine, service: InProcessService, clock: Clock, apply_config: ApplyConfig
) -> None:
    config = tenant_config()
    neighbour = replace(config.tenants["acme"], name="neighbour", id="")
    apply_config(replace(config, tenants={**config.tenants, "neighbour": neighbour}))
    message = upload_message()
    grant_id = issued_id(service, message)
    clock.forward(seconds=30)
    assert issued_id(service, message | {"tenant": "neighbour"}) == grant_id
    assert record(service, stored(grant_id, KEY, clock())).total == 1
    assert rows(engine, Use.tenant) == [("acme",)]


def test_buckets_of_one_name_on_two_servers_share_no_object(
    engine: Engine, service: InProcessService, clock: Clock, apply_config: ApplyConfig
) -> None:
    config = tenant_config(policies={"demo": POLICY, "other": replace(POLICY, bucket="other")})
    other = replace(config.buckets["demo"], name="other", endpoint="https://other.test")
    apply_config(replace(config, buckets={**config.buckets, "other": other}))
    here = stored(issued_id(service, upload_message()), KEY, clock())
    there = issued_id(service, upload_message(bucket="other"))
    record(service, here)
    assert record(service, here._replace(grant_id=there)).ignored == {"other_key": 1}
    assert record(service, here._replace(grant_id=there, bucket=storage_name(other))).total == 1
    record(service, deleted(KEY, clock() + timedelta(seconds=5)))
    assert rows(engine, StoredObject.bucket, StoredObject.is_deleted) == [
        (BUCKET, True),
        ("other.test/valetkey-demo", False),
    ]


def test_an_access_log_names_a_bucket_without_its_server(
    service: InProcessService, clock: Clock, apply_config: ApplyConfig
) -> None:
    config = tenant_config()
    elsewhere = replace(config.buckets["demo"], endpoint="https://other.test")
    apply_config(replace(config, buckets={"demo": elsewhere}))
    grant_id = issued_id(service, download_message())
    assert record(service, downloaded(grant_id, "acme/a.pdf", clock())).total == 1


def test_a_grant_has_a_bounded_number_of_uses_and_its_newest_object_all_the_same(
    engine: Engine, service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_counts, "MAX_USES", 3)
    grant_id = issued_id(service, upload_message())
    first, *others = (
        stored(grant_id, KEY, clock() + timedelta(seconds=n), etag=str(n), size=n)
        for n in range(1, 6)
    )
    assert record(service, first).total == 1
    recorded = record(service, *others)
    assert (recorded.total, recorded.ignored) == (2, {"too_many_uses": 2})
    assert rows(engine, StoredObject.size) == [(5,)]


def test_a_deletion_is_recorded_for_the_grant_that_stored_the_object(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    grant_id = issued_id(service, upload_message())
    record(service, stored(grant_id, KEY, clock()))
    assert record(service, deleted(KEY, clock() + timedelta(seconds=5))).total == 1
    assert rows(engine, StoredObject.is_deleted, StoredObject.size) == [(True, 0)]


def test_the_newest_object_of_a_key_is_kept_whatever_the_order_of_reports(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    first, second = (issued_id(service, upload_message()) for _ in range(2))
    later = clock() + timedelta(seconds=5)
    record(service, stored(second, KEY, later, etag="new", size=20))
    record(service, stored(first, KEY, clock(), etag="old"))
    assert rows(engine, StoredObject.size, StoredObject.changed_at) == [(20, later)]


@pytest.mark.parametrize(
    ("field", "before", "bucket"),
    [
        ("bucket", DEMO.bucket, BUCKET),
        ("endpoint", "https://old.test", "old.test/moved"),
    ],
)
def test_a_grant_of_a_profile_that_led_elsewhere_is_found_by_its_former_bucket(
    service: InProcessService, clock: Clock, apply_config: ApplyConfig, field: str, before: str,
    bucket: str,
) -> None:  # fmt: skip
    grant_id = issued_id(service, upload_message())
    config = tenant_config()
    moved = replace(config.buckets["demo"], bucket="moved")
    apply_config(replace(config, buckets={"demo": moved}))
    report = stored(grant_id, KEY, clock(), bucket=bucket)
    assert record(service, report).ignored == {"other_key": 1}
    change: dict[str, Any] = {"path": f"buckets.demo.{field}", "before": before, "after": None}
    change |= {"changed_at": clock(), "changed_by": "ann", "command": "apply"}
    with write_transaction(service.context.engine) as connection:
        connection.execute(insert(ConfigChange), change)
    assert record(service, report).total == 1


@pytest.mark.parametrize("agent", ['a"b', "a\\b", "{a,b}", "NULL", "", " ", "ü\n", None])
def test_a_user_agent_is_recorded_as_it_was_told(
    engine: Engine, service: InProcessService, clock: Clock, agent: str | None
) -> None:
    report = downloaded(issued_id(service, download_message()), "acme/a.pdf", clock())
    others = report._replace(request_id="R2", user_agent="other")
    record(service, report._replace(user_agent=agent), others)
    assert set(rows(engine, Use.user_agent, Use.size)) == {(agent, 10), ("other", 10)}
