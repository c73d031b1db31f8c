from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from models import Leaf, Reservation, StoredObject, Usage, Use
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    download_message,
    put_message,
    tenant_config,
    upload_message,
)
from tests.support.uses.reports import BUCKET, deleted, downloaded, stored
from tests.support.uses.use_service import UseService
from worker.base.database_engine import read_transaction, write_transaction
from worker.ledger.quota_usage import SettledBytes, charge, give_back_bytes, read_usage
from worker.rules.issued_grants import storage_name
from worker.rules.quota_rules import NO_COST
from worker.rules.tenant_config import Quota
from worker.uses import use_rows
from worker.uses.stored_objects import add_stored_bytes
from worker.uses.use_reports import Source, UseReport
from worker.uses.use_rows import read_stored_sizes

KEY = "acme/a.png"


def slot(service: UseService, **changes: Any) -> str:
    """Return the id of a new upload grant."""
    return service.ids(upload_message(**changes))[0]


def report(service: UseService, **changes: Any) -> UseReport:
    """Issue an upload grant, and return a report that its object was stored now."""
    return stored(slot(service), KEY, service.clock())._replace(**changes)


def download(service: UseService) -> UseReport:
    """Issue a download grant, and return a report that it was used now."""
    return downloaded(service.ids(download_message())[0], "acme/a.pdf", service.clock())


def test_a_use_that_is_told_again_is_recorded_once(service: UseService) -> None:
    told = report(service)
    assert service.record(told, told._replace(source="event")).total == 1
    again = service.record(told)
    assert (again.total, again.ignored) == (0, {"known": 1})
    assert service.rows(Leaf.kind).count(("use",)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        *({"size": size} for size in (-1, 2**53 + 1, 2**63, 10**30)),
        *({name: "a\0b"} for name in ("etag", "version", "checksum", "content_type")),
        {"etag": "\ud800"},
    ],
)
def test_a_report_that_no_table_can_keep_is_ignored(
    service: UseService, changes: dict[str, Any]
) -> None:
    told = report(service)
    assert service.record(told._replace(**changes)).ignored == {"malformed": 1}
    assert service.rows(Use.fingerprint) == []
    assert service.record(told).total == 1


def test_a_report_from_the_future_does_not_freeze_its_key(service: UseService) -> None:
    told = report(service)
    ahead = told._replace(etag="future", occurred_at=service.clock() + timedelta(hours=2))
    assert service.record(ahead).ignored == {"malformed": 1}
    service.record(told)
    assert service.record(deleted(KEY, service.clock() + timedelta(seconds=5))).total == 1


def test_a_neighbour_that_copies_a_batch_id_later_takes_no_use_away(service: UseService) -> None:
    config = tenant_config()
    neighbour = replace(config.tenants["acme"], name="neighbour", id="")
    service.apply(replace(config, tenants={**config.tenants, "neighbour": neighbour}))
    message = upload_message()
    (grant_id,) = service.ids(message)
    service.clock.forward(seconds=30)
    assert service.ids(message | {"tenant": "neighbour"}) == [grant_id]
    assert service.record(stored(grant_id, KEY, service.clock())).total == 1
    assert service.rows(Use.tenant) == [("acme",)]


def test_buckets_of_one_name_on_two_servers_share_no_object(service: UseService) -> None:
    config = tenant_config(policies={"demo": POLICY, "other": replace(POLICY, bucket="other")})
    other = replace(config.buckets["demo"], name="other", endpoint="https://other.test")
    service.apply(replace(config, buckets={**config.buckets, "other": other}))
    here, there = report(service), slot(service, bucket="other")
    service.record(here)
    moved = here._replace(grant_id=there)
    assert service.record(moved).ignored == {"other_key": 1}
    assert service.record(moved._replace(bucket=storage_name(other))).total == 1
    service.record(deleted(KEY, service.clock() + timedelta(seconds=5)))
    assert service.rows(StoredObject.bucket, StoredObject.is_deleted) == [
        (BUCKET, True),
        ("other.test/valetkey-demo", False),
    ]


def test_an_access_log_names_a_bucket_without_its_server(service: UseService) -> None:
    config = tenant_config()
    elsewhere = replace(config.buckets["demo"], endpoint="https://other.test")
    service.apply(replace(config, buckets={"demo": elsewhere}))
    assert service.record(download(service)).total == 1


def test_a_grant_has_a_bounded_number_of_uses_and_its_newest_object_all_the_same(
    service: UseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_rows, "MAX_USES", 3)
    told, now = report(service), service.clock()
    first, *others = (
        told._replace(occurred_at=now + timedelta(seconds=n), etag=str(n), size=n)
        for n in range(1, 6)
    )
    assert service.record(first).total == 1
    recorded = service.record(*others)
    assert (recorded.total, recorded.ignored) == (2, {"too_many_uses": 2})
    assert service.rows(StoredObject.size) == [(5,)]


@pytest.mark.parametrize("source", ["probe", "event"])
def test_of_two_objects_of_a_second_the_one_that_a_probe_sees_later_is_the_newer_one(
    service: UseService, source: Source
) -> None:
    # Probes have times in whole seconds.
    half = service.clock() + timedelta(seconds=0.5 if source == "event" else 0)
    told = report(service, occurred_at=half, source=source, etag="old", size=5)
    service.record(told)
    service.record(report(service, etag="new", size=7))
    service.record(told)
    assert service.rows(StoredObject.size, StoredObject.changed_at) == [(7, half)]


@pytest.mark.parametrize("sizes", [(10, 30, 20), (30, 10)])
def test_of_several_objects_of_an_item_the_largest_is_charged(
    service: UseService, sizes: tuple[int, ...]
) -> None:
    told = report(service)
    for size in sizes:
        service.clock.forward(seconds=1)
        service.record(told._replace(occurred_at=service.clock(), size=size, etag=str(size)))
    with read_transaction(service.engine) as connection:
        assert read_stored_sizes(connection, 1, [0]) == {0: 30}


@pytest.mark.parametrize(
    ("first", "bucket"),
    [({"bucket": DEMO.bucket}, BUCKET), ({"endpoint": "https://old.test"}, "old.test/moved")],
)
def test_a_grant_of_a_profile_that_led_elsewhere_is_found_by_its_former_bucket(
    service: UseService, first: dict[str, Any], bucket: str
) -> None:
    told = report(service, bucket=bucket)
    config = tenant_config()
    moved = replace(config.buckets["demo"], bucket="moved")
    for profile in (replace(moved, **first), moved):
        service.clock.forward(seconds=1)
        service.apply(replace(config, buckets={"demo": profile}))
    assert service.record(told._replace(bucket="never.test/moved")).ignored == {"other_key": 1}
    assert service.record(told).total == 1


@pytest.mark.parametrize("agent", ['a"b', "a\\b", "{a,b}", "NULL", "", " ", "ü\n", None])
def test_a_user_agent_is_recorded_as_it_was_told(service: UseService, agent: str | None) -> None:
    told = download(service)
    others = told._replace(request_id="R2", user_agent="other")
    service.record(told._replace(user_agent=agent), others)
    assert set(service.rows(Use.user_agent, Use.size)) == {(agent, 10), ("other", 10)}


def stored_bytes(service: UseService) -> int:
    usage = dict(service.rows(Usage.window, Usage.stored_bytes))
    return int(usage["live"])


def settled_report(service: UseService, **changes: Any) -> UseReport:
    """Return a report of a grant whose slot is settled, as far as its usage is concerned."""
    told = report(service, **changes)
    with write_transaction(service.engine) as connection:
        connection.execute(delete(Reservation))
        connection.execute(update(Usage).values(upload_bytes=0))
    return told


def test_content_that_is_stored_again_after_its_deletion_counts_again(service: UseService) -> None:
    first = settled_report(service, size=100)
    again = first._replace(occurred_at=service.clock() + timedelta(seconds=20))
    service.record(first)
    service.record(deleted(KEY, service.clock() + timedelta(seconds=10)))
    for _ in range(2):
        service.record(again)
        service.record(first)
        assert stored_bytes(service) == 100


def test_content_that_is_stored_again_after_another_one_is_the_newest(service: UseService) -> None:
    first, later = settled_report(service, size=100), service.clock() + timedelta(seconds=10)
    service.record(first)
    service.record(settled_report(service, size=40, etag="second", occurred_at=later))
    service.record(first._replace(occurred_at=service.clock() + timedelta(seconds=20)))
    assert stored_bytes(service) == 100


def test_the_bytes_stay_within_what_their_column_keeps(service: UseService) -> None:
    service.record(settled_report(service, size=100))
    for change, expected in ((2**62, 2**62), (2**70, 2**62), (-(2**70), 1), (-5, 0)):
        with write_transaction(service.engine) as connection:
            add_stored_bytes(connection, {"acme": change})
        assert stored_bytes(service) == expected


def test_a_request_is_refused_if_its_bytes_exceed_the_quota(service: UseService) -> None:
    service.record(settled_report(service, size=500))
    service.apply(tenant_config(Quota("stored_bytes", "live", 1_000)))
    assert service.issue(put_message({"acme/next.png": 100}))["status"] == "issued"
    refusal = service.issue(put_message({"acme/next.png": 401}))["refusal"]
    assert (refusal["code"], refusal["quota"]["metric"]) == ("quota_exceeded", "stored_bytes")
    assert (refusal["quota"]["used"], refusal["quota"]["asked"]) == (600, 401)


@pytest.mark.parametrize(("returned", "left"), [(30, 70), (100, 0), (150, 0)])
def test_bytes_that_are_given_back_leave_no_usage_below_zero(
    service: UseService, returned: int, left: int
) -> None:
    now = service.clock()
    with write_transaction(service.engine) as connection:
        charge(connection, "acme", NO_COST._replace(upload_bytes=100), now)
        give_back_bytes(connection, [SettledBytes("acme", now, 100, returned)])
        usage = read_usage(connection, "acme", now)
    windows = dict.fromkeys(("minute", "hour", "day", "month"), left)
    assert {window: cost.upload_bytes for window, cost in usage.items()} == windows | {"live": 0}
