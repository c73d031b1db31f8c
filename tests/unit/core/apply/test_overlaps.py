"""Two tenants whose prefixes lead to the same objects."""

from dataclasses import replace
from pathlib import Path

import pytest

from worker.core.apply.overlaps import find_overlaps
from worker.core.tenants.config import Bucket, Policy, Tenant, TenantConfig
from worker.usecases.tenants_file import FileProblem, read_tenants_file

HERE = Bucket("here", "reports", "us-east-1")
ON_AWS = "https://s3.eu-west-1.amazonaws.com"
OWN = "https://s3.example.com"


def tenant(name: str, *prefixes: str, bucket: str = "here", shared: bool = False) -> Tenant:
    policy = Policy(bucket, prefixes, ("download",), shared=shared)
    return Tenant(name, policies={bucket: policy})


def declared(*tenants: Tenant, buckets: tuple[Bucket, ...] = (HERE,)) -> TenantConfig:
    return TenantConfig({one.name: one for one in buckets}, {one.name: one for one in tenants})


def found(given: TenantConfig, endpoint: str | None = None) -> list[tuple[str, str]]:
    return [
        (f"{one.tenant}:{one.written}", f"{other.tenant}:{other.written}")
        for one, other in find_overlaps(given, endpoint)
    ]


def test_a_prefix_inside_another_tenants_overlaps_it() -> None:
    given = declared(tenant("acme", "a/"), tenant("globex", "a/b/", "c/"))
    assert found(given) == [("globex:a/b/", "acme:a/")]


def test_the_same_prefix_overlaps() -> None:
    given = declared(tenant("acme", "a/"), tenant("globex", "a/"))
    assert found(given) == [("globex:a/", "acme:a/")]


def test_the_whole_bucket_overlaps_everything_in_it() -> None:
    given = declared(tenant("acme", "a/", "b/c/"), tenant("globex", ""))
    assert found(given) == [("acme:a/", "globex:*"), ("acme:b/c/", "globex:*")]


def test_every_pair_is_found_however_deep_it_lies() -> None:
    given = declared(tenant("a", "x/"), tenant("b", "x/y/"), tenant("c", "x/y/z/", "x/w/"))
    assert found(given) == [
        ("c:x/w/", "a:x/"),
        ("b:x/y/", "a:x/"),
        ("c:x/y/z/", "a:x/"),
        ("c:x/y/z/", "b:x/y/"),
    ]


@pytest.mark.parametrize("others", [("a1/",), ("b/a/",), ("A/",), ("a-b/", "ab/")])
def test_prefixes_that_only_look_alike_do_not_overlap(others: tuple[str, ...]) -> None:
    assert found(declared(tenant("acme", "a/"), tenant("globex", *others))) == []


def test_a_tenants_own_prefixes_may_overlap() -> None:
    assert found(declared(tenant("acme", "a/", "a/b/", ""))) == []


@pytest.mark.parametrize(("one", "other", "pairs"), [(True, True, 0), (True, False, 1)])
def test_both_have_to_share(one: bool, other: bool, pairs: int) -> None:  # noqa: FBT001 - a table
    given = declared(tenant("acme", "a/", shared=one), tenant("globex", "a/", shared=other))
    assert len(found(given)) == pairs


@pytest.mark.parametrize(
    ("profile", "endpoint", "same"),
    [
        (HERE, None, True),
        (replace(HERE, region="eu-west-1", addressing="path", profile="x"), None, True),
        (replace(HERE, endpoint=ON_AWS), None, True),
        (replace(HERE, fips=True), None, True),
        (replace(HERE, fips=True), OWN, False),
        (replace(HERE, endpoint=OWN), None, False),
        (replace(HERE, endpoint=OWN), OWN, True),
        (replace(HERE, endpoint="https://S3.example.com:443"), OWN, True),
        (replace(HERE, endpoint="http://s3.example.com"), OWN, True),
        (replace(HERE, endpoint="https://s3.example.com:9000"), OWN, False),
        (replace(HERE, endpoint="https://in.example.com", internal_endpoint=OWN), OWN, True),
        (replace(HERE, bucket="statements"), None, False),
    ],
)
def test_a_bucket_is_the_same_by_its_name_and_where_it_is_reached(
    profile: Bucket,
    endpoint: str | None,
    same: bool,  # noqa: FBT001 - a table
) -> None:
    there = replace(profile, name="there")
    given = declared(tenant("a", "x/"), tenant("b", "x/", bucket="there"), buckets=(HERE, there))
    assert len(found(given, endpoint)) == same


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
    read_ = read_tenants_file(file, development=False)
    return read_ if isinstance(read_, list) else []


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


def test_what_both_policies_share_is_taken(tmp_path: Path) -> None:
    shared = FILE.replace('kinds = ["download"]', 'kinds = ["download"]\nshared = true')
    assert problems(tmp_path, shared) == []


def test_an_overlap_is_said_together_with_what_is_wrong_elsewhere(tmp_path: Path) -> None:
    found_ = problems(tmp_path, f"{FILE}\n[tenants.initech]\nmax_batch = 0\n")
    assert [problem.path for problem in found_] == [
        "tenants.globex.allow.archive.prefixes[1]",
        "tenants.initech.max_batch",
    ]
