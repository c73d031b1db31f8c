"""The boto3 clients with which the worker itself calls storage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ProfileNotFound

from tests.support.builders.boto import bucket_profile
from tests.support.fakes.credential_process import CredentialProcess
from worker.aws.credentials import create_session, load_service_files
from worker.aws.s3_clients import S3Clients
from worker.core.tenant_config import Bucket

MINUTE = timedelta(minutes=1)
LOOPBACK, MINIO, SEAWEED = "http://127.0.0.1:8333", "http://minio:9000", "http://seaweedfs:8333"
BUCKET = bucket_profile("reports", "us-east-1", "path", "https://s3.example.com", profile="vault")


@pytest.fixture(autouse=True)
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CredentialProcess:
    vault = CredentialProcess(tmp_path, monkeypatch)
    vault.write_credentials("ASIA1", datetime.now(UTC) + 12 * MINUTE)
    return vault


def get_client(
    s3: S3Clients, bucket: Bucket = BUCKET, tenant: str = "acme", delay: timedelta = timedelta()
) -> Any:
    return s3.client(bucket, tenant, ("acme/",), datetime.now(UTC) + delay)


@pytest.mark.parametrize(
    ("settings", "changes", "endpoint"),
    [
        ((LOOPBACK,), {"internal_endpoint": MINIO}, MINIO),
        ((LOOPBACK,), {}, "https://s3.example.com"),
        ((LOOPBACK,), {"endpoint": None}, LOOPBACK),
        ((LOOPBACK, None, SEAWEED), {"endpoint": None}, SEAWEED),
        ((LOOPBACK, None, SEAWEED), {"endpoint": None, "internal_endpoint": MINIO}, MINIO),
        ((LOOPBACK, None, SEAWEED), {}, "https://s3.example.com"),
        ((LOOPBACK, None, SEAWEED), {"endpoint": None, "fips": True}, "https://s3-fips."),
    ],
)
def test_the_worker_calls_the_internal_endpoint_that_belongs_to_the_public_one_or_else_that(
    settings: tuple[str | None, ...], changes: dict[str, Any], endpoint: str
) -> None:
    client = get_client(S3Clients(*settings), replace(BUCKET, **changes))
    assert client.meta.endpoint_url.startswith(endpoint)


def test_links_have_the_address_of_aws_if_only_calls_have_another() -> None:
    s3 = S3Clients(internal_endpoint="https://bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com")
    bucket = replace(BUCKET, endpoint=None)
    assert get_client(s3, bucket).meta.endpoint_url.startswith("https://bucket.vpce-1.s3.")
    assert s3.target(bucket).host == "s3.amazonaws.com"


@pytest.mark.parametrize(
    ("s3", "bucket"),
    [
        (S3Clients(), replace(BUCKET, internal_endpoint=MINIO)),
        (S3Clients("https://s3.example.com", None, MINIO), replace(BUCKET, endpoint=None)),
    ],
)
def test_signed_urls_never_have_the_internal_endpoint(s3: S3Clients, bucket: Bucket) -> None:
    assert s3.target(bucket).host == "s3.example.com"


def test_a_client_is_cached_and_without_a_role_shared_by_all_tenants() -> None:
    s3 = S3Clients()
    assert get_client(s3) is get_client(s3, tenant="globex")


def test_a_client_is_replaced_when_its_credentials_are_renewed(vault: CredentialProcess) -> None:
    s3 = S3Clients()
    first = get_client(s3)
    vault.write_credentials("ASIA2", datetime.now(UTC) + 120 * MINUTE)
    second = get_client(s3, delay=8 * MINUTE)
    assert second is not first
    assert second._get_credentials().access_key == "ASIA2"


@pytest.mark.parametrize(
    ("changes", "endpoint", "is_aws"),
    [
        ({"endpoint": None}, None, True),
        ({"endpoint": None}, "https://s3.eu-central-1.amazonaws.com", True),
        ({"endpoint": None}, "https://s3.example.com", False),
        ({"endpoint": None, "fips": True}, "https://s3.example.com", True),
        ({"endpoint": "https://s3.example.com", "provider": "other"}, None, False),
        ({"endpoint": "https://s3.example.com", "provider": "aws"}, None, True),
    ],
)
def test_a_profile_is_on_aws_if_its_endpoint_is_or_it_says_so_beside_one(
    changes: dict[str, Any],
    endpoint: str | None,
    is_aws: bool,  # noqa: FBT001 - a parameter
) -> None:
    assert S3Clients(endpoint).is_aws(replace(BUCKET, **changes)) is is_aws


def test_sessions_share_the_files_of_botocore_and_grow_no_list() -> None:
    first, second = create_session("vault"), create_session("vault")
    loaders = [session._session.get_component("data_loader") for session in (first, second)]
    assert loaders[0] is loaders[1]
    assert len(set(loaders[0].search_paths)) == len(loaders[0].search_paths) == 2


def test_a_profile_that_does_not_exist_is_found_when_its_session_is_created() -> None:
    with pytest.raises(ProfileNotFound):
        create_session("none")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_PROFILE", "none"), ("AWS_ENDPOINT_URL_S3", "example.com"), ("AWS_MAX_ATTEMPTS", "many")],
)
def test_wrong_settings_of_aws_keep_no_worker_from_starting(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    load_service_files()
