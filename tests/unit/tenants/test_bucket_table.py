"""The [buckets.NAME] table of tenants.toml: its values, and fields that exclude each other."""

import pytest

from tests.support.builders.tenants_files import TenantsFile
from worker.rules.tenant_config import Bucket

ROLE = "arn:aws:iam::111122223333:role/valetkey"
POINT = "arn:aws:s3:eu-west-1:111122223333:accesspoint/reports"
LAMBDA = "arn:aws:s3-object-lambda:eu-west-1:111122223333:accesspoint/reports"
OUTPOST = "arn:aws:s3-outposts:eu-west-1:111122223333:outpost/op-01234567890123456/accesspoint/ap1"
MULTI_REGION = "arn:aws:s3::111122223333:accesspoint/mfzwi23gnjvgw.mrap"
QUEUE = "https://sqs.eu-west-1.amazonaws.com/111122223333/uploads"
R2 = 'region = "auto"\nendpoint = "https://0123.r2.cloudflarestorage.com"\nprovider = "r2"\n'


def profile_text(lines: str, tenants: str = "") -> str:
    """Return a file with one bucket profile; given lines replace those of an ordinary one."""
    names = [line.partition(" = ")[0] for line in lines.split("\n")]
    defaults = {"bucket": "acme-reports", "region": "eu-west-1"}
    ordinary = [f'{name} = "{value}"' for name, value in defaults.items() if name not in names]
    return "\n".join(["[buckets.reports]", *ordinary, lines, tenants])


def profile(file: TenantsFile, lines: str) -> Bucket:
    return file.config(profile_text(lines)).buckets["reports"]


def test_every_field_is_read(tenants_file: TenantsFile) -> None:
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
events_queue = "{QUEUE}"
"""
    assert profile(tenants_file, lines) == Bucket(
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
        events_queue=QUEUE,
    )


@pytest.mark.parametrize(
    "field", ["conditional_writes", "versioned", "fips", "dualstack", "accelerate"]
)
def test_a_feature_of_storage_is_set_by_a_flag(tenants_file: TenantsFile, field: str) -> None:
    default = field == "conditional_writes"
    assert getattr(profile(tenants_file, ""), field) is default
    changed = profile(tenants_file, f"{field} = {str(not default).lower()}")
    assert getattr(changed, field) is not default


@pytest.mark.parametrize(
    ("lines", "provider", "post"),
    [
        ("", "aws", True),
        ('endpoint = "https://s3.example.com"', "other", True),
        ('endpoint = "https://s3.example.com"\nprovider = "aws"', "aws", True),
        ("post = false", "aws", False),
        (R2, "r2", False),
        (f"{R2}post = true", "r2", True),
        *((f'bucket = "{arn}"', "aws", False) for arn in (POINT, LAMBDA, OUTPOST)),
        ('bucket = "logs--euw1-az1--x-s3"', "aws", False),
    ],
)
def test_the_defaults_of_provider_and_post_depend_on_other_fields(
    tenants_file: TenantsFile, lines: str, provider: str, *, post: bool
) -> None:
    bucket = profile(tenants_file, lines)
    assert (bucket.provider, bucket.post) == (provider, post)


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
        ('endpoint = "https://s3.example.com"\nfips = true', "fips"),
        ('endpoint = "https://s3.example.com"\ndualstack = true', "dualstack"),
        ('endpoint = "https://s3.example.com"\naccelerate = true', "accelerate"),
        ('addressing = "path"\naccelerate = true', "accelerate"),
        ("fips = true\naccelerate = true", "accelerate"),
        (f'bucket = "{POINT}"\naccelerate = true', "accelerate"),
        ('owner = "11112222333"', "owner"),
        ('max_expires_in = "8d"', "max_expires_in"),
        ('role_arn = "arn:aws:iam::111122223333:user/valetkey"', "role_arn"),
        (f'{R2}role_arn = "{ROLE}"', "role_arn"),
        (f'bucket = "{POINT}"\nrole_arn = "{ROLE}"', "role_arn"),
        (f'role_arn = "{ROLE}"\nexternal_id = "a b"', "external_id"),
        (f'role_arn = "{ROLE}"\nrole_seconds = "13h"', "role_seconds"),
        ('external_id = "agreed"', "external_id"),
        ('role_seconds = "1h"', "role_seconds"),
    ],
)
def test_an_invalid_value_is_refused_with_its_path(
    tenants_file: TenantsFile, lines: str, field: str
) -> None:
    assert tenants_file.problem(profile_text(lines)).path == f"buckets.reports.{field}"


def test_prefixes_that_do_not_fit_the_session_policy_of_a_role_are_refused(
    tenants_file: TenantsFile,
) -> None:
    array = ", ".join(f'"tenants/acme/{number:04}/"' for number in range(40))
    allow = f'[tenants.acme.allow.reports]\nprefixes = [{array}]\nkinds = ["download"]'
    tenant = f'[tenants.acme]\ntrust = "queue"\n{allow}'
    problem = tenants_file.problem(profile_text(f'role_arn = "{ROLE}"', tenant))
    assert problem.path == "tenants.acme.allow.reports.prefixes"
    assert "session policy" in problem.message
    assert "2,048" in str(problem.hint)
    tenants_file.config(profile_text("", tenant))


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (f'bucket = "{MULTI_REGION}"', "bucket", "SigV4A"),
        (f'events_queue = "{QUEUE}.fifo"', "events_queue", "no FIFO queue"),
    ],
)
def test_what_valetkey_cannot_use_is_refused_with_the_reason(
    tenants_file: TenantsFile, line: str, field: str, reason: str
) -> None:
    problem = tenants_file.problem(profile_text(line))
    assert (problem.path, reason in problem.message) == (f"buckets.reports.{field}", True)
