"""Ids of tenants, and how bucket profiles are found."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from worker.rules.issued_grants import storage_name
from worker.rules.tenant_config import MAX_ID_LENGTH, Bucket, Tenant, TenantConfig, assign_ids

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
NO_TENANTS = TenantConfig()


def config(*tenants: Tenant) -> TenantConfig:
    return TenantConfig(tenants={tenant.name: tenant for tenant in tenants})


def new_ids(used_ids: set[str], *names: str) -> list[str]:
    """Return the ids that new tenants of these names get."""
    after = assign_ids(NO_TENANTS, config(*map(Tenant, names)), used_ids, NOW)
    return [tenant.id for tenant in after.tenants.values()]


def test_a_tenants_id_is_its_name_and_for_each_later_one_the_next_number_too() -> None:
    assert new_ids({"globex", "acm", "acme2"}, "acme") == ["acme"]
    assert new_ids({"acme"}, "acme") == ["acme~2"]
    assert new_ids({"acme", "acme~2", "globex~3"}, "acme") == ["acme~3"]


def test_a_tenant_that_is_kept_keeps_its_id_and_creation_time() -> None:
    created_at = NOW - timedelta(days=9)
    before = config(Tenant("acme", id="acme~2", created_at=created_at))
    after = assign_ids(before, config(Tenant("acme", "queue")), {"acme", "acme~2"}, NOW)
    assert after == config(Tenant("acme", "queue", id="acme~2"))
    assert after.tenants["acme"].created_at == created_at


def test_a_new_tenant_is_created_now() -> None:
    after = assign_ids(NO_TENANTS, config(Tenant("acme")), set(), NOW)
    assert after.tenants["acme"].created_at == NOW


def test_ids_of_long_names_fit_into_their_columns_and_differ() -> None:
    names = [f"{'n' * (MAX_ID_LENGTH - 1)}{last}" for last in "ab"]
    ids = new_ids(set(names), *names)
    assert [len(id_) for id_ in ids] == [MAX_ID_LENGTH] * 2
    assert len({*names, *ids}) == len(names) + len(ids)


def test_a_tenant_is_found_by_its_id_and_not_by_that_of_a_removed_one() -> None:
    acme, globex = Tenant("acme", id="acme~2"), Tenant("globex")
    tenants = config(acme, globex)
    ids = ("acme~2", "globex", "acme", "acme~3", "")
    assert [tenants.tenant_by_id(id_) for id_ in ids] == [acme, globex, None, None, None]


PLACES = {"other": "far", "first": "near", "second": "near"}
THREE_BUCKETS = TenantConfig(
    {name: Bucket(name, bucket, "us-east-1", "path") for name, bucket in PLACES.items()}
)


@pytest.mark.parametrize(
    ("wanted", "preferred", "found"),
    [
        ("near", (), "first"),
        ("near", ("second",), "second"),
        ("near", ("removed", "second", "first"), "second"),
        ("near", ("other",), "first"),
        ("near", ("removed",), "first"),
        ("nowhere", ("first",), None),
    ],
)
def test_the_first_preferred_profile_that_is_wanted_is_found(
    wanted: str, preferred: Sequence[str], found: str | None
) -> None:
    bucket = THREE_BUCKETS.find_bucket(lambda each: each.bucket == wanted, preferred)
    assert (bucket and bucket.name) == found


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (None, "acme"),
        ("https://s3.eu-central-1.amazonaws.com", "acme"),
        ("https://store.test", "store.test/acme"),
        ("HTTPS://Store.Test:443/", "store.test/acme"),
    ],
)
def test_a_bucket_has_its_own_name_at_aws_and_elsewhere_also_the_host_in_any_spelling(
    endpoint: str | None, name: str
) -> None:
    assert storage_name(Bucket("uploads", "acme", "eu-central-1", endpoint=endpoint)) == name
