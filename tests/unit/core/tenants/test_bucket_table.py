"""The [buckets.NAME] table of tenants.toml: its values, and fields that exclude each other."""

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


class BucketFile:
    """A tenants.toml with one bucket profile; given lines replace those of an ordinary one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "tenants.toml"

    def read(self, lines: str, tenants: str = "") -> TenantConfig | list[FileProblem]:
        names = [line.partition(" = ")[0] for line in lines.split("\n")]
        defaults = {"bucket": "acme-reports", "region": "eu-west-1"}
        default_lines = [
            f'{name} = "{value}"' for name, value in defaults.items() if name not in names
        ]
        text = "\n".join(["[buckets.reports]", *default_lines, lines, tenants])
        self._file.write_text(text, encoding="utf-8")
        return read_tenants_file(self._file, development=False)

    def profile(self, lines: str) -> Bucket:
        config = self.read(lines)
        assert isinstance(config, TenantConfig), config
        return config.buckets["reports"]

    def problem(self, lines: str, tenants: str = "") -> FileProblem:
        problems = self.read(lines, tenants)
        assert isinstance(problems, list)
        assert len(problems) == 1, problems
        return problems[0]


@pytest.fixture
def tenants_file(tmp_path: Path) -> BucketFile:
    return BucketFile(tmp_path)


def test_every_field_is_read(tenants_file: BucketFile) -> None:
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
    assert tenants_file.profile(lines) == Bucket(
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


def test_a_profile_says_that_its_storage_has_no_conditional_writes(
    tenants_file: BucketFile,
) -> None:
    assert tenants_file.profile("").conditional_writes
    assert not tenants_file.profile("conditional_writes = false").conditional_writes


def test_aws_endpoints_are_selected_by_flags(tenants_file: BucketFile) -> None:
    profile = tenants_file.profile("fips = true\ndualstack = true")
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
def test_the_defaults_of_provider_and_post_depend_on_other_fields(
    tenants_file: BucketFile, lines: str, provider: str, *, post: bool
) -> None:
    profile = tenants_file.profile(lines)
    assert (profile.provider, profile.post) == (provider, post)


@pytest.mark.parametrize("bucket", [POINT, LAMBDA, OUTPOST, "logs--euw1-az1--x-s3"])
def test_a_bucket_may_be_an_access_point_or_directory_bucket(
    tenants_file: BucketFile, bucket: str
) -> None:
    assert tenants_file.profile(f'bucket = "{bucket}"').bucket == bucket


def test_a_multi_region_access_point_is_refused_with_the_reason(tenants_file: BucketFile) -> None:
    problem = tenants_file.problem(f'bucket = "{MULTI_REGION}"\nregion = "us-east-1"')
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
def test_an_invalid_value_is_refused_with_its_path(
    tenants_file: BucketFile, lines: str, field: str
) -> None:
    assert tenants_file.problem(lines).path == f"buckets.reports.{field}"


def tenant_with_prefixes(prefixes: int) -> str:
    array = ", ".join(f'"tenants/acme/{number:04}/"' for number in range(prefixes))
    allow = f'[tenants.acme.allow.reports]\nprefixes = [{array}]\nkinds = ["download"]'
    return f'[tenants.acme]\ntrust = "queue"\n{allow}'


def test_prefixes_that_do_not_fit_a_session_policy_are_refused(tenants_file: BucketFile) -> None:
    problem = tenants_file.problem(f'role_arn = "{ROLE}"', tenant_with_prefixes(40))
    assert problem.path == "tenants.acme.allow.reports.prefixes"
    assert "session policy" in problem.message
    assert "2,048" in str(problem.hint)


def test_without_a_role_the_number_of_prefixes_is_not_limited(tenants_file: BucketFile) -> None:
    assert isinstance(tenants_file.read("", tenant_with_prefixes(40)), TenantConfig)


def test_a_fifo_queue_is_refused_because_storage_does_not_send_to_one(
    tenants_file: BucketFile,
) -> None:
    url = "https://sqs.eu-west-1.amazonaws.com/111122223333/uploads"
    assert tenants_file.profile(f'events_queue = "{url}"').events_queue == url
    problem = tenants_file.problem(f'events_queue = "{url}.fifo"')
    assert problem.path == "buckets.reports.events_queue"
    assert "no FIFO queue" in problem.message
