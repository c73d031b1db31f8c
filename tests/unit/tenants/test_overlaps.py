"""Overlapping prefixes of two tenants."""

from dataclasses import replace

import pytest

from tests.support.builders.tenants_files import TenantsFile
from worker.rules.tenant_config import Bucket, DefaultEndpoints, Policy, Tenant, TenantConfig
from worker.tenants.config_conflicts import find_prefix_overlaps

REPORTS = Bucket("reports", "reports", "us-east-1")
ON_AWS = "https://s3.eu-west-1.amazonaws.com"
OTHER_STORAGE = "https://s3.example.com"


def tenant(name: str, *prefixes: str, bucket: str = "reports", shared: bool = False) -> Tenant:
    policy = Policy(bucket, prefixes, ("download",), shared=shared)
    return Tenant(name, policies={bucket: policy})


BOTH = tenant("a", "x/"), tenant("b", "x/", bucket="archive")


def config_of(*tenants: Tenant, **buckets: Bucket) -> TenantConfig:
    """Return a config with the profile REPORTS and others."""
    return TenantConfig({"reports": REPORTS} | buckets, {each.name: each for each in tenants})


def overlaps(config: TenantConfig, endpoint: str | None = None) -> list[tuple[str, str]]:
    return [
        (f"{inner.tenant}:{inner.toml_prefix}", f"{outer.tenant}:{outer.toml_prefix}")
        for inner, outer in find_prefix_overlaps(config, DefaultEndpoints(endpoint))
    ]


@pytest.mark.parametrize(
    ("tenants", "pairs"),
    [
        ([tenant("acme", "a/"), tenant("globex", "a/b/", "c/")], [("globex:a/b/", "acme:a/")]),
        ([tenant("acme", "a/"), tenant("globex", "a/")], [("globex:a/", "acme:a/")]),
        (
            [tenant("acme", "a/", "b/c/"), tenant("globex", "")],
            [("acme:a/", "globex:*"), ("acme:b/c/", "globex:*")],
        ),
        (
            [tenant("a", "x/"), tenant("b", "x/y/"), tenant("c", "x/y/z/", "x/w/")],
            [("c:x/w/", "a:x/"), ("b:x/y/", "a:x/"), ("c:x/y/z/", "a:x/"), ("c:x/y/z/", "b:x/y/")],
        ),
        ([tenant("acme", "a/", "a/b/", "")], []),
    ],
    ids=[
        "a prefix inside another tenant's",
        "the same prefix",
        "the whole bucket, and everything in it",
        "every pair at any depth",
        "not a tenant's own prefixes",
    ],
)
def test_prefixes_of_different_tenants_overlap(
    tenants: list[Tenant], pairs: list[tuple[str, str]]
) -> None:
    assert overlaps(config_of(*tenants)) == pairs


def test_prefixes_that_only_look_alike_do_not_overlap() -> None:
    alike = tenant("globex", "a1/", "b/a/", "A/", "a-b/", "ab/")
    assert overlaps(config_of(tenant("acme", "a/"), alike)) == []


@pytest.mark.parametrize(("first", "second", "pairs"), [(True, True, 0), (True, False, 1)])
def test_both_policies_have_to_be_shared(*, first: bool, second: bool, pairs: int) -> None:
    config = config_of(tenant("acme", "a/", shared=first), tenant("globex", "a/", shared=second))
    assert len(overlaps(config)) == pairs


@pytest.mark.parametrize(
    ("profile", "endpoint", "same"),
    [
        (REPORTS, None, True),
        (replace(REPORTS, region="eu-west-1", addressing="path", profile="x"), None, True),
        (replace(REPORTS, endpoint=ON_AWS), None, True),
        (replace(REPORTS, fips=True), OTHER_STORAGE, False),
        (replace(REPORTS, endpoint=OTHER_STORAGE), None, False),
        (replace(REPORTS, endpoint=OTHER_STORAGE), OTHER_STORAGE, True),
        (replace(REPORTS, endpoint="https://S3.example.com:443"), OTHER_STORAGE, True),
        (replace(REPORTS, endpoint="http://s3.example.com"), OTHER_STORAGE, True),
        (replace(REPORTS, endpoint="https://s3.example.com:9000"), OTHER_STORAGE, False),
        (
            replace(REPORTS, endpoint="https://in.example.com", internal_endpoint=OTHER_STORAGE),
            OTHER_STORAGE,
            True,
        ),
        (replace(REPORTS, bucket="statements"), None, False),
    ],
)
def test_a_bucket_is_the_same_if_its_name_and_storage_host_are(
    profile: Bucket, endpoint: str | None, *, same: bool
) -> None:
    archive = replace(profile, name="archive")
    assert len(overlaps(config_of(*BOTH, archive=archive), endpoint)) == same


def test_a_profile_that_names_the_internal_address_of_the_default_storage_has_its_buckets() -> None:
    archive = replace(REPORTS, name="archive", endpoint="http://minio:9000")
    config = config_of(*BOTH, archive=archive)
    assert not find_prefix_overlaps(config, DefaultEndpoints(OTHER_STORAGE))
    assert find_prefix_overlaps(config, DefaultEndpoints(OTHER_STORAGE, "http://minio:9000"))


FILE = """\
[buckets.reports]
bucket = "acme-reports"
region = "eu-central-1"

[tenants.acme]
trust = "queue"
[tenants.acme.allow.reports]
prefixes = ["acme/"]
kinds = ["download"]

[tenants.globex]
trust = "queue"
[tenants.globex.allow.reports]
prefixes = ["globex/", "acme/2026/"]
kinds = ["download"]
"""


def test_an_overlap_is_reported_together_with_other_errors(tenants_file: TenantsFile) -> None:
    problems = tenants_file.problems(f"{FILE}\n[tenants.initech]\nmax_batch = 0\n")
    assert [problem.path for problem in problems] == [
        "tenants.globex.allow.reports.prefixes[1]",
        "tenants.initech.max_batch",
    ]
