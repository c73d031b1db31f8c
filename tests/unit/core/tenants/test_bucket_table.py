"""[buckets.NAME] of tenants.toml: what a profile comes to be, and what does not go together."""

from pathlib import Path

import pytest

from worker.core.tenants.config import Bucket, TenantConfig
from worker.usecases.tenants_file import FileProblem, read_tenants_file

ROLE = "arn:aws:iam::111122223333:role/valetkey"
POINT = "arn:aws:s3:eu-west-1:111122223333:accesspoint/reports"
LAMBDA = "arn:aws:s3-object-lambda:eu-west-1:111122223333:accesspoint/reports"
OUTPOST = "arn:aws:s3-outposts:eu-west-1:111122223333:outpost/op-01234567890123456/accesspoint/ap1"
MULTI_REGION = "arn:aws:s3::111122223333:accesspoint/mfzwi23gnjvgw.mrap"
R2 = 'region = "auto"\nendpoint = "https://0123.r2.cloudflarestorage.com"\nprovider = "r2"\n'


class Written:
    """A file with one bucket profile, whose lines replace those of an ordinary one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "tenants.toml"

    def read(self, lines: str, tenants: str = "") -> TenantConfig | list[FileProblem]:
        names = [line.partition(" = ")[0] for line in lines.split("\n")]
        usual = {"bucket": "acme-reports", "region": "eu-west-1"}
        kept = [f'{name} = "{value}"' for name, value in usual.items() if name not in names]
        text = "\n".join(["[buckets.reports]", *kept, lines, tenants])
        self._file.write_text(text, encoding="utf-8")
        return read_tenants_file(self._file, development=False)

    def profile(self, lines: str) -> Bucket:
        declared = self.read(lines)
        assert isinstance(declared, TenantConfig), declared
        return declared.buckets["reports"]

    def problem(self, lines: str, tenants: str = "") -> FileProblem:
        problems = self.read(lines, tenants)
        assert isinstance(problems, list)
        assert len(problems) == 1, problems
        return problems[0]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_every_field_is_taken(written: Written) -> None:
    lines = f"""\
addressing = "path"
endpoint = "https://s3.example.com"
profile = "reports"
internal_endpoint = "http://minio:9000"
provider = "other"
post = false
owner = "111122223333"
max_expires_in = "12h"
role_arn = "{ROLE}"
external_id = "agreed-with-acme"
role_seconds = "2h"
"""
    assert written.profile(lines) == Bucket(
        "reports",
        "acme-reports",
        "eu-west-1",
        addressing="path",
        endpoint="https://s3.example.com",
        profile="reports",
        internal_endpoint="http://minio:9000",
        provider="other",
        post=False,
        owner="111122223333",
        max_expires_in=43_200,
        role_arn=ROLE,
        external_id="agreed-with-acme",
        role_seconds=7_200,
    )


def test_amazons_endpoints_are_chosen_by_name(written: Written) -> None:
    profile = written.profile("fips = true\ndualstack = true")
    assert (profile.fips, profile.dualstack, profile.accelerate) == (True, True, False)


@pytest.mark.parametrize(
    ("lines", "provider", "post"),
    [
        ("", "aws", True),
        ('endpoint = "https://s3.example.com"', "other", True),
        ('endpoint = "https://s3.example.com"\nprovider = "aws"', "aws", True),
        ("post = false", "aws", False),
        (R2, "r2", False),
        (f"{R2}post = true", "r2", True),
        (f'bucket = "{POINT}"', "aws", False),
        ('bucket = "logs--euw1-az1--x-s3"', "aws", False),
    ],
)
def test_a_provider_says_whether_there_are_forms(
    written: Written, lines: str, provider: str, *, post: bool
) -> None:
    profile = written.profile(lines)
    assert (profile.provider, profile.post) == (provider, post)


@pytest.mark.parametrize("bucket", [POINT, LAMBDA, OUTPOST, "logs--euw1-az1--x-s3"])
def test_a_bucket_may_be_what_s3_has_beside_buckets(written: Written, bucket: str) -> None:
    assert written.profile(f'bucket = "{bucket}"').bucket == bucket


def test_a_multi_region_access_point_is_refused_with_the_reason(written: Written) -> None:
    problem = written.problem(f'bucket = "{MULTI_REGION}"\nregion = "us-east-1"')
    assert problem.path == "buckets.reports.bucket"
    assert "SigV4A" in problem.message


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ('bucket = "arn:aws:s3:::acme-reports"', "bucket"),
        (f'bucket = "{POINT}/object/a"', "bucket"),
        (f'bucket = "{POINT}"\nregion = "eu-central-1"', "region"),
        ('internal_endpoint = "minio:9000"', "internal_endpoint"),
        ('provider = "minio"', "provider"),
        ('provider = "r2"', "provider"),
        (R2.replace('"auto"', '"eu-west-1"'), "provider"),
        (f'bucket = "{POINT}"\npost = true', "post"),
        ('bucket = "logs--euw1-az1--x-s3"\npost = true', "post"),
        ("post = 1", "post"),
        ('endpoint = "https://s3.example.com"\nfips = true', "fips"),
        ('endpoint = "https://s3.example.com"\ndualstack = true', "dualstack"),
        ('endpoint = "https://s3.example.com"\naccelerate = true', "accelerate"),
        ('addressing = "path"\naccelerate = true', "accelerate"),
        ('bucket = "a.b"\naddressing = "path"\naccelerate = true', "accelerate"),
        ("fips = true\naccelerate = true", "accelerate"),
        (f'bucket = "{POINT}"\naccelerate = true', "accelerate"),
        ('owner = "11112222333"', "owner"),
        ("owner = 111122223333", "owner"),
        ('max_expires_in = "8d"', "max_expires_in"),
        ("max_expires_in = 0", "max_expires_in"),
        ('role_arn = "valetkey"', "role_arn"),
        ('role_arn = "arn:aws:iam::111122223333:user/valetkey"', "role_arn"),
        (f'{R2}role_arn = "{ROLE}"', "role_arn"),
        (f'bucket = "{POINT}"\nrole_arn = "{ROLE}"', "role_arn"),
        (f'role_arn = "{ROLE}"\nexternal_id = "a b"', "external_id"),
        (f'role_arn = "{ROLE}"\nrole_seconds = "14m"', "role_seconds"),
        (f'role_arn = "{ROLE}"\nrole_seconds = "13h"', "role_seconds"),
        ('external_id = "agreed"', "external_id"),
        ('role_seconds = "1h"', "role_seconds"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_stands(
    written: Written, lines: str, field: str
) -> None:
    assert written.problem(lines).path == f"buckets.reports.{field}"


def allowing(prefixes: int) -> str:
    written = ", ".join(f'"tenants/acme/{number:04}/"' for number in range(prefixes))
    allow = f'[tenants.acme.allow.reports]\nprefixes = [{written}]\nkinds = ["download"]'
    return f'[tenants.acme]\ntrust = "queue"\n{allow}'


def test_prefixes_that_a_session_cannot_be_held_to_are_refused(written: Written) -> None:
    problem = written.problem(f'role_arn = "{ROLE}"', allowing(40))
    assert problem.path == "tenants.acme.allow.reports.prefixes"
    assert "session policy" in problem.message
    assert "2,048" in str(problem.hint)


def test_without_a_role_there_may_be_any_number_of_prefixes(written: Written) -> None:
    assert isinstance(written.read("", allowing(40)), TenantConfig)
