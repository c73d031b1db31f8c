"""The [buckets.NAME] table of tenants.toml: its values, and fields that exclude each other."""

import pytest

from tests.support.builders.tenants_files import TenantsFile
from worker.core.tenant_config import Bucket

ROLE = "arn:aws:iam::111122223333:role/valetkey"
POINT = "arn:aws:s3:eu-west-1:111122223333:accesspoint/reports"
LAMBDA = "arn:aws:s3-object-lambda:eu-west-1:111122223333:accesspoint/reports"
OUTPOST = "arn:aws:s3-outposts:eu-west-1:111122223333:outpost/op-01234567890123456/accesspoint/ap1"
MULTI_REGION = "arn:aws:s3::111122223333:accesspoint/mfzwi23gnjvgw.mrap"
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
    )


@pytest.mark.parametrize(
    ("field", "default"),
    [
        ("conditional_writes", True),
        ("versioned", False),
        ("fips", False),
        ("dualstack", False),
        ("accelerate", False),
    ],
)
def test_a_feature_of_storage_is_set_by_a_flag(
    tenants_file: TenantsFile, field: str, *, default: bool
) -> None:
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


def test_a_multi_region_access_point_is_refused_with_the_reason(tenants_file: TenantsFile) -> None:
    text = profile_text(f'bucket = "{MULTI_REGION}"\nregion = "us-east-1"')
    problem = tenants_file.problem(text)
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


def tenant_with_prefixes(prefixes: int) -> str:
    array = ", ".join(f'"tenants/acme/{number:04}/"' for number in range(prefixes))
    allow = f'[tenants.acme.allow.reports]\nprefixes = [{array}]\nkinds = ["download"]'
    return f'[tenants.acme]\ntrust = "queue"\n{allow}'


def test_prefixes_that_do_not_fit_a_session_policy_are_refused(tenants_file: TenantsFile) -> None:
    text = profile_text(f'role_arn = "{ROLE}"', tenant_with_prefixes(40))
    problem = tenants_file.problem(text)
    assert problem.path == "tenants.acme.allow.reports.prefixes"
    assert "session policy" in problem.message
    assert "2,048" in str(problem.hint)


def test_without_a_role_the_number_of_prefixes_is_not_limited(tenants_file: TenantsFile) -> None:
    tenants_file.config(profile_text("", tenant_with_prefixes(40)))


def test_a_fifo_queue_is_refused_because_storage_does_not_send_to_one(
    tenants_file: TenantsFile,
) -> None:
    url = "https://sqs.eu-west-1.amazonaws.com/111122223333/uploads"
    assert profile(tenants_file, f'events_queue = "{url}"').events_queue == url
    problem = tenants_file.problem(profile_text(f'events_queue = "{url}.fifo"'))
    assert problem.path == "buckets.reports.events_queue"
    assert "no FIFO queue" in problem.message
