"""The documents of a bucket, on servers that enforce a part of them, and `doctor` on those."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from tests.support.s3 import doubles
from worker.aws.s3_clients import S3Clients
from worker.core.aws_permissions import ProfileUse
from worker.core.tenant_config import Bucket, Policy
from worker.dev.embedded_servers import Storage
from worker.doctor.permission_checks import check_permissions
from worker.permissions.bucket_documents import bucket_policy, cors_rules, lifecycle_rules
from worker.permissions.iam_documents import iam_documents

POLICY = Policy("demo", ("acme/",), ("download", "upload", "put", "multipart"), 60, 1_000)
ORIGIN = "https://app.example.com"


def new_use(storage: Storage) -> ProfileUse:
    """Return the use of a new bucket by one policy."""
    name = f"permissions-{uuid.uuid4().hex[:12]}"
    storage.client().create_bucket(Bucket=name)
    return ProfileUse(Bucket("demo", name, storage.region, "path", storage.endpoint), (POLICY,))


def link(storage: Storage, use: ProfileUse) -> str:
    params = {"Bucket": use.bucket.bucket, "Key": "acme/a"}
    storage.client().put_object(Body=b"a", **params)
    url: str = storage.client().generate_presigned_url("get_object", params, ExpiresIn=60)
    return url


def test_seaweedfs_refuses_plain_http_under_the_policy(seaweed: Storage) -> None:
    use = new_use(seaweed)
    url = link(seaweed, use)
    assert httpx.get(url).status_code == 200
    policy = json.dumps(bucket_policy(use).content)
    seaweed.client().put_bucket_policy(Bucket=use.bucket.bucket, Policy=policy)
    assert httpx.get(url).status_code == 403


@pytest.mark.parametrize(
    ("sid", "status"), [("NoOldSignatures", 200), ("SignatureVersion4Only", 403)]
)
def test_seaweedfs_knows_no_version_of_signatures_and_so_refuses_all(
    seaweed: Storage, sid: str, status: int
) -> None:
    use = new_use(seaweed)
    url = link(seaweed, use)
    document = dict(bucket_policy(use).content)
    document["Statement"] = [item for item in document["Statement"] if item["Sid"] == sid]
    policy = json.dumps(document)
    seaweed.client().put_bucket_policy(Bucket=use.bucket.bucket, Policy=policy)
    assert httpx.get(url).status_code == status


def test_a_page_of_another_origin_gets_no_answer(seaweed: Storage) -> None:
    use = new_use(seaweed)
    rules = cors_rules(use, [ORIGIN]).content
    seaweed.client().put_bucket_cors(Bucket=use.bucket.bucket, CORSConfiguration=rules)
    url = link(seaweed, use)
    allowed = {}
    for origin in (ORIGIN, "https://evil.example.com"):
        for method in ("GET", "PUT", "POST", "DELETE"):
            headers = {"Origin": origin, "Access-Control-Request-Method": method}
            headers["Access-Control-Request-Headers"] = "content-type,x-amz-meta-grant-id"
            response = httpx.options(url, headers=headers)
            allowed[origin, method] = "access-control-allow-origin" in response.headers
    assert {origin for (origin, _), is_allowed in allowed.items() if is_allowed} == {ORIGIN}
    assert all(allowed[ORIGIN, method] for method in ("GET", "PUT", "POST", "DELETE"))


def test_seaweedfs_takes_the_rule_for_unfinished_uploads(seaweed: Storage) -> None:
    use = new_use(seaweed)
    document = lifecycle_rules(use)
    assert document is not None
    seaweed.client().put_bucket_lifecycle_configuration(
        Bucket=use.bucket.bucket, LifecycleConfiguration=document.content
    )


def test_doctor_finds_nothing_that_credentials_with_all_permissions_lack(
    seaweed: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    check = check_permissions(S3Clients(), new_use(seaweed))
    assert check is not None
    assert (check.state, check.hint) == ("ok", None)


@pytest.fixture
def iam_moto(moto: Storage) -> Iterator[Storage]:
    yield moto
    doubles.check_moto_signatures(moto, enabled=False)


LACKING = {
    "s3:PutObject": "fail",
    "s3:GetObject": "fail",
    "s3:AbortMultipartUpload": "warn",
    "s3:ListBucketMultipartUploads": "warn",
    "s3:ListBucket": "warn",
}


def check_without(
    moto: Storage, monkeypatch: pytest.MonkeyPatch, action: str | None
) -> tuple[str, str]:
    """Return the state and the message of `doctor` for a policy that lacks an action."""
    use = new_use(moto)
    (document,) = iam_documents([use], None)
    statements = [item for item in document.content["Statement"] if item["Action"] != action]
    keys = doubles.moto_user(moto, use.bucket.bucket, *statements)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
    doubles.check_moto_signatures(moto, enabled=True)
    check = check_permissions(S3Clients(), use)
    assert check is not None
    assert (check.hint is None) == (action is None)
    return check.state, check.message


def test_doctor_finds_nothing_missing_with_the_printed_policy(
    iam_moto: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_without(iam_moto, monkeypatch, None)[0] == "ok"


@pytest.mark.parametrize(("action", "state"), LACKING.items())
def test_doctor_names_an_action_that_the_credentials_lack(
    iam_moto: Storage, monkeypatch: pytest.MonkeyPatch, action: str, state: str
) -> None:
    found, message = check_without(iam_moto, monkeypatch, action)
    assert found == state
    below = "" if "List" in action else " below acme/"
    assert f"the credentials lack {action}{below} (" in message


def test_doctor_tries_no_other_than_ordinary_buckets(seaweed: Storage) -> None:
    use = new_use(seaweed)
    arn = "arn:aws:s3:us-east-1:111122223333:accesspoint/reports"
    assert (
        check_permissions(S3Clients(), replace(use, bucket=replace(use.bucket, bucket=arn))) is None
    )
