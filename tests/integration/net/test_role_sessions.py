"""Role sessions of a real STS: which objects they can access, and their caching and renewal."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import build_service
from worker.aws import objects
from worker.aws.clients import S3Clients
from worker.aws.credentials import REFRESH_INTERVAL
from worker.core.kinds.role_session import cleanup_session
from worker.core.signing.forms import FormSigner
from worker.core.signing.sigv4 import Credentials
from worker.core.signing.urls import UrlSigner
from worker.core.tenants.config import Bucket, TenantConfig
from worker.devstack.storage import Storage
from worker.errors import Malformed, StorageSilent
from worker.usecases.upkeep.abort_uploads import abort_expired

REGION = "us-east-1"
EXTERNAL_ID = "agreed-with-acme"
HOUR = timedelta(hours=1)
PREFIXES = ("acme/",)
ALLOW_ALL = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
TRUST_STATEMENT = {
    "Effect": "Allow",
    "Principal": {"AWS": "*"},
    "Action": "sts:AssumeRole",
    "Condition": {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}},
}


@dataclass
class AwsRole:
    """A bucket and a role with full access to it, on a server that enforces policies."""

    s3: S3Clients
    bucket: Bucket
    storage: Storage
    now: datetime

    def client(self, service: str, **session: Any) -> Any:
        return boto3.client(
            service, region_name=REGION, endpoint_url=self.storage.endpoint, **session
        )

    def credentials(
        self, tenant: str = "acme", prefixes: tuple[str, ...] = PREFIXES, seconds: int = 0
    ) -> Credentials:
        now = self.now + timedelta(seconds=seconds)
        return self.s3.credentials(self.bucket, tenant, prefixes, now, HOUR)

    def status(self, method: str, key: str, prefixes: tuple[str, ...] = PREFIXES) -> int:
        """Return the HTTP status of a URL signed for a key, without any check of the key."""
        urls = UrlSigner(
            self.credentials(prefixes=prefixes),
            self.s3.target(self.bucket),
            method=method,
            issued_at=self.now,
            expires_in=600,
        )
        return httpx.request(method, urls.sign(key).url, timeout=60).status_code

    def post(self, key: str) -> int:
        forms = FormSigner(
            self.credentials(),
            self.s3.target(self.bucket),
            bucket=self.bucket.bucket,
            issued_at=self.now,
            expires_in=600,
        )
        form = forms.sign(key)
        files = {"file": b"x"}
        return httpx.post(form.url, data=form.fields, files=files, timeout=60).status_code


@pytest.fixture
def aws(ministack: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsRole]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    name = f"valetkey-{uuid.uuid4().hex}"
    role = f"arn:aws:iam::000000000000:role/{name}"
    profile = Bucket("reports", name, REGION, "path", ministack.endpoint)
    bucket = replace(profile, role_arn=role, external_id=EXTERNAL_ID, role_seconds=900)
    aws = AwsRole(S3Clients(sts_endpoint=ministack.endpoint), bucket, ministack, datetime.now(UTC))
    iam = aws.client("iam")
    iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps(policy_document(TRUST_STATEMENT))
    )
    iam.put_role_policy(
        RoleName=name, PolicyName="s3", PolicyDocument=json.dumps(policy_document(ALLOW_ALL))
    )
    aws.client("s3").create_bucket(Bucket=name)
    yield aws
    delete_role(aws)


def policy_document(statement: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [statement]}


def delete_role(aws: AwsRole) -> None:
    """Delete the role, if it exists, so that it can no longer be assumed."""
    iam, name = aws.client("iam"), aws.bucket.bucket
    try:
        iam.delete_role_policy(RoleName=name, PolicyName="s3")
        iam.delete_role(RoleName=name)
    except iam.exceptions.NoSuchEntityException:
        pass


def test_what_a_session_signs_reaches_the_tenants_objects(aws: AwsRole) -> None:
    assert aws.post("acme/form") == 204
    assert aws.status("PUT", "acme/put") == 200
    assert aws.status("GET", "acme/put") == 200


def test_what_a_session_signs_reaches_nobody_elses(aws: AwsRole) -> None:
    aws.client("s3").put_object(Bucket=aws.bucket.bucket, Key="globex/a", Body=b"secret")
    assert aws.status("GET", "globex/a") == 403
    assert aws.status("PUT", "globex/a") == 403
    assert aws.status("PUT", "acme1/a") == 403
    assert aws.post("globex/a") == 403


def test_a_wildcard_in_a_prefix_reaches_no_further_than_itself(aws: AwsRole) -> None:
    # MiniStack knows no escapes, so here it does not reach itself either
    assert aws.status("PUT", "ab/b", ("a*/",)) == 403


def test_a_client_for_calls_has_the_tenants_session(aws: AwsRole) -> None:
    client = aws.s3.client(aws.bucket, "acme", PREFIXES, aws.now)
    parameters = {"Bucket": aws.bucket.bucket}
    assert client.create_multipart_upload(**parameters, Key="acme/a")["UploadId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        client.create_multipart_upload(**parameters, Key="globex/a")


def test_only_the_session_for_cleanup_may_list_uploads(aws: AwsRole) -> None:
    client = aws.s3.client(aws.bucket, "acme", PREFIXES, aws.now)
    upload = client.create_multipart_upload(Bucket=aws.bucket.bucket, Key="acme/a")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.list_multipart_uploads(Bucket=aws.bucket.bucket)
    cleanup = aws.s3.limited_client(aws.bucket, "acme", PREFIXES, aws.now, cleanup_session)
    (listed,) = cleanup.list_multipart_uploads(Bucket=aws.bucket.bucket)["Uploads"]
    assert listed["UploadId"] == upload["UploadId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        cleanup.create_multipart_upload(Bucket=aws.bucket.bucket, Key="acme/a")
    cleanup.abort_multipart_upload(
        Bucket=aws.bucket.bucket, Key="acme/a", UploadId=upload["UploadId"]
    )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_upload_that_a_session_started_is_found_and_aborted_by_the_cleanup(
    aws: AwsRole,
    engine: Engine,
    apply_config: ApplyConfig,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_upload = objects.start_upload

    def start_unheard(*arguments: Any) -> None:
        start_upload(*arguments)
        raise StorageSilent("storage does not answer")

    policies = {"reports": replace(POLICY, bucket="reports")}
    tenants = tenant_config(policies=policies).tenants
    apply_config(TenantConfig({"reports": aws.bucket}, tenants))
    clock.time = aws.now
    service = build_service(engine, aws.s3, clock)
    terms = {"kind": "multipart", "bucket": "reports", "expires_in": 600, "max_size": 1_000}
    message = grant_message(["acme/a"], grant=terms)
    monkeypatch.setattr(objects, "start_upload", start_unheard)
    with pytest.raises(StorageSilent):
        service.issue(message | {"items": [{"key": "acme/a", "size": 1_000}]})
    parameters, owner = {"Bucket": aws.bucket.bucket}, aws.storage.client()
    assert len(owner.list_multipart_uploads(**parameters)["Uploads"]) == 1
    clock.forward(minutes=2)
    assert abort_expired(service.context) == {"ended": 1, "postponed": 0}
    assert not owner.list_multipart_uploads(**parameters).get("Uploads")


def test_a_session_carries_the_tenants_name(aws: AwsRole) -> None:
    credentials = aws.credentials()
    sts = aws.client(
        "sts",
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
    )
    assert sts.get_caller_identity()["Arn"].endswith(f"/{aws.bucket.bucket}/valetkey-acme")


def test_a_session_ends_when_it_was_asked_to(aws: AwsRole) -> None:
    earliest, duration = datetime.now(UTC), timedelta(seconds=aws.bucket.role_seconds)
    end, rounding = aws.credentials().expires_at, timedelta(seconds=1)  # STS counts whole seconds
    assert end is not None
    assert earliest - rounding < end - duration < datetime.now(UTC) + rounding


def test_a_tenant_keeps_its_session_and_shares_it_with_nobody(aws: AwsRole) -> None:
    assert aws.credentials() == aws.credentials()
    assert aws.credentials().access_key != aws.credentials("globex", ("globex/",)).access_key
    assert aws.credentials().access_key != aws.credentials(prefixes=("acme/new/",)).access_key


def test_threads_share_a_session(aws: AwsRole) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: aws.credentials(), range(16)))) == 1


def test_a_session_that_would_end_too_soon_is_renewed(aws: AwsRole) -> None:
    first, later = aws.credentials(), REFRESH_INTERVAL.seconds
    assert aws.credentials(seconds=later).access_key != first.access_key


def test_a_session_that_cannot_be_renewed_serves_to_its_end(aws: AwsRole) -> None:
    first, later = aws.credentials(), REFRESH_INTERVAL.seconds
    delete_role(aws)
    assert aws.credentials(seconds=later) == first
    assert first.expires_at is not None
    with pytest.raises(Malformed):
        aws.credentials(seconds=(first.expires_at - aws.now).seconds + 1)


def test_a_role_that_cannot_be_assumed_is_named_with_the_reason(aws: AwsRole) -> None:
    delete_role(aws)
    with pytest.raises(Malformed, match=r"'default' for arn:aws:iam::.*: AccessDenied") as raised:
        aws.credentials()
    assert EXTERNAL_ID not in str(raised.value)


def test_a_wrong_external_id_opens_no_session(aws: AwsRole) -> None:
    aws.bucket = replace(aws.bucket, external_id="guessed")
    with pytest.raises(Malformed, match="AccessDenied"):
        aws.credentials()
