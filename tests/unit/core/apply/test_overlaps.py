"""Overlapping prefixes of two tenants."""

from dataclasses import replace
from pathlib import Path

import pytest

from worker.core.apply.overlaps import find_overlaps
from worker.core.tenants.config import Bucket, Policy, Tenant, TenantConfig
from worker.core.tenants.endpoints import DefaultEndpoints
from worker.usecases.tenants_file import FileProblem, read_tenants_file

REPORTS = Bucket("reports", "reports", "us-east-1")
ON_AWS = "https://s3.eu-west-1.amazonaws.com"
OTHER_STORAGE = "https://s3.example.com"


def tenant(name: str, *prefixes: str, bucket: str = "reports", shared: bool = False) -> Tenant:
    policy = Policy(bucket, prefixes, ("download",), shared=shared)
    return Tenant(name, policies={bucket: policy})


def config_of(*tenants: Tenant, buckets: tuple[Bucket, ...] = (REPORTS,)) -> TenantConfig:
    return TenantConfig(
        {item.name: item for item in buckets}, {item.name: item for item in tenants}
    )


def overlaps(config: TenantConfig, endpoint: str | None = None) -> list[tuple[str, str]]:
    return [
        (f"{inner.tenant}:{inner.toml_prefix}", f"{outer.tenant}:{outer.toml_prefix}")
        for inner, outer in find_overlaps(config, DefaultEndpoints(endpoint))
    ]


def test_a_prefix_inside_another_tenants_overlaps_it() -> None:
    config = config_of(tenant("acme", "a/"), tenant("globex", "a/b/", "c/"))
    assert overlaps(config) == [("globex:a/b/", "acme:a/")]


def test_the_same_prefix_overlaps() -> None:
    config = config_of(tenant("acme", "a/"), tenant("globex", "a/"))
    assert overlaps(config) == [("globex:a/", "acme:a/")]


def test_the_whole_bucket_overlaps_everything_in_it() -> None:
    config = config_of(tenant("acme", "a/", "b/c/"), tenant("globex", ""))
    assert overlaps(config) == [("acme:a/", "globex:*"), ("acme:b/c/", "globex:*")]


def test_every_pair_is_found_at_any_depth() -> None:
    config = config_of(tenant("a", "x/"), tenant("b", "x/y/"), tenant("c", "x/y/z/", "x/w/"))
    assert overlaps(config) == [
        ("c:x/w/", "a:x/"),
        ("b:x/y/", "a:x/"),
        ("c:x/y/z/", "a:x/"),
        ("c:x/y/z/", "b:x/y/"),
    ]


@pytest.mark.parametrize("others", [("a1/",), ("b/a/",), ("A/",), ("a-b/", "ab/")])
def test_prefixes_that_only_look_alike_do_not_overlap(others: tuple[str, ...]) -> None:
    assert overlaps(config_of(tenant("acme", "a/"), tenant("globex", *others))) == []


def test_a_tenants_own_prefixes_may_overlap() -> None:
    assert overlaps(config_of(tenant("acme", "a/", "a/b/", ""))) == []


@pytest.mark.parametrize(("first", "second", "pairs"), [(True, True, 0), (True, False, 1)])
def test_both_policies_have_to_be_shared(first: bool, second: bool, pairs: int) -> None:  # noqa: FBT001 - a table
    config = config_of(tenant("acme", "a/", shared=first), tenant("globex", "a/", shared=second))
    assert len(overlaps(config)) == pairs


@pytest.mark.parametrize(
    ("profile", "endpoint", "same"),
    [
        (REPORTS, None, True),
        (replace(REPORTS, region="eu-west-1", addressing="path", profile="x"), None, True),
        (replace(REPORTS, endpoint=ON_AWS), None, True),
        (replace(REPORTS, fips=True), None, True),
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
    profile: Bucket,
    endpoint: str | None,
    same: bool,  # noqa: FBT001 - a table
) -> None:
    archive = replace(profile, name="archive")
    config = config_of(
        tenant("a", "x/"), tenant("b", "x/", bucket="archive"), buckets=(REPORTS, archive)
    )
    assert len(overlaps(config, endpoint)) == same


def test_a_profile_that_names_the_internal_address_of_the_default_storage_has_its_buckets() -> None:
    archive = replace(REPORTS, name="archive", endpoint="http://minio:9000")
    config = config_of(
        tenant("a", "x/"), tenant("b", "x/", bucket="archive"), buckets=(REPORTS, archive)
    )
    assert not find_overlaps(config, DefaultEndpoints(OTHER_STORAGE))
    assert find_overlaps(config, DefaultEndpoints(OTHER_STORAGE, "http://minio:9000"))


FILE = """\
[buckets.reports]
bucket = "acme-reports"
region = "eu-central-1"
[buckets.archive]
bucket = "acme-reports"
region = "eu-central-1"

[tenants.acme]
trust = "queue"
[tenants.acme.allow.reports]
prefixes = ["acme/"]
kinds = ["download"]

[tenants.globex]
trust = "queue"
[tenants.globex.allow.archive]
prefixes = ["globex/", "acme/2026/"]
kinds = ["download"]
"""


def problems(folder: Path, text: str) -> list[FileProblem]:
    file = folder / "tenants.toml"
    file.write_text(text, encoding="utf-8")
    result = read_tenants_file(file, development=False)
    return result if isinstance(result, list) else []


def test_an_overlap_is_refused_with_both_tenants_both_prefixes_and_both_lines(
    tmp_path: Path,
) -> None:
    (problem,) = problems(tmp_path, FILE)
    assert problem == FileProblem(
        path="tenants.globex.allow.archive.prefixes[1]",
        line=17,
        message='"acme/2026/" of globex overlaps "acme/" of acme in the bucket acme-reports '
        "(line 11)",
        hint="make them disjoint, or write `shared = true` in both policies",
    )


def test_an_overlap_that_both_policies_share_is_accepted(tmp_path: Path) -> None:
    shared = FILE.replace('kinds = ["download"]', 'kinds = ["download"]\nshared = true')
    assert problems(tmp_path, shared) == []


def test_an_overlap_is_reported_together_with_other_errors(tmp_path: Path) -> None:
    file_problems = problems(tmp_path, f"{FILE}\n[tenants.initech]\nmax_batch = 0\n")
    assert [problem.path for problem in file_problems] == [
        "tenants.globex.allow.archive.prefixes[1]",
        "tenants.initech.max_batch",
    ]
