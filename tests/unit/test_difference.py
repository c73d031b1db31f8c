from dataclasses import replace

import pytest

from worker.core.difference import difference, newly_unsigned, removed_tenants
from worker.core.tenancy import Bucket, Declared, Endpoint, Policy, Quota, Tenant

DEMO = Bucket("demo", "valetkey-demo", "us-east-1")
ACME = Tenant(
    "acme",
    "queue",
    policies={"demo": Policy("demo", ("acme/",), ("download",))},
    quotas=(Quota("grants", "hour", 50_000),),
    endpoints={"billing": Endpoint("billing", "https://billing.example.com/", "env:SECRET")},
)
BEFORE = Declared({"demo": DEMO}, {"acme": ACME})


def with_acme(**changes: object) -> Declared:
    return replace(BEFORE, tenants={"acme": replace(ACME, **changes)})  # type: ignore[arg-type]


def lines(before: Declared, after: Declared) -> list[str]:
    return [str(change) for change in difference(before, after)]


def test_equal_declarations_do_not_differ() -> None:
    assert difference(BEFORE, with_acme()) == []


@pytest.mark.parametrize(
    ("after", "line"),
    [
        (
            with_acme(quotas=(Quota("grants", "hour", 60_000),)),
            "~ tenants.acme.quotas.grants.hour 50000 → 60000",
        ),
        (with_acme(quotas=()), "- tenants.acme.quotas.grants.hour 50000"),
        (
            with_acme(quotas=(*ACME.quotas, Quota("upload_bytes", "day", 1))),
            "+ tenants.acme.quotas.upload_bytes.day 1",
        ),
        (with_acme(max_batch=1), "~ tenants.acme.max_batch 100000 → 1"),
        (
            with_acme(policies={"demo": Policy("demo", ("",), ("download",))}),
            '~ tenants.acme.allow.demo.prefixes ["acme/"] → ["*"]',
        ),
        (
            replace(BEFORE, buckets={"demo": replace(DEMO, post=False)}),
            "~ buckets.demo.post true → false",
        ),
        (
            replace(BEFORE, buckets={"demo": replace(DEMO, profile="reports")}),
            "+ buckets.demo.profile reports",
        ),
        (
            with_acme(endpoints={"billing": replace(ACME.endpoints["billing"], secret="file:/s")}),
            "~ tenants.acme.endpoints.billing.secret env:SECRET → file:/s",
        ),
    ],
)
def test_a_difference_is_one_readable_line(after: Declared, line: str) -> None:
    assert lines(BEFORE, after) == [line]


def test_a_removed_tenant_is_shown_field_by_field() -> None:
    without = replace(BEFORE, tenants={})
    assert removed_tenants(BEFORE, without) == ["acme"]
    assert "- tenants.acme.trust queue" in lines(BEFORE, without)
    assert all(line.startswith("- tenants.acme.") for line in lines(BEFORE, without))


def test_unsigned_messages_are_pointed_out_once() -> None:
    assert newly_unsigned(Declared(), BEFORE) == ["acme"]
    assert newly_unsigned(BEFORE, with_acme(max_batch=1)) == []
