"""The documents of a bucket, on servers that enforce a part of them, and `doctor` on those."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from tests.support.fakes.http_storage import StorageResponse, running_http_storage
from tests.support.s3 import doubles
from worker.aws.s3_clients import S3Clients
from worker.dev.embedded_servers import Storage
from worker.doctor.permission_checks import check_permissions
from worker.permissions.bucket_documents import bucket_policy, cors_rules, lifecycle_rules
from worker.permissions.iam_documents import iam_documents
from worker.rules.tenant_config import Bucket, Policy
from worker.shared.aws_permissions import ProfileUse

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
    on_tls = replace(use, bucket=replace(use.bucket, endpoint="https://s3.example.com"))
    policy = json.dumps(bucket_policy([on_tls]).content)
    seaweed.client().put_bucket_policy(Bucket=use.bucket.bucket, Policy=policy)
    assert httpx.get(url).status_code == 403


def test_seaweedfs_accepts_new_links_under_the_statements_on_signatures(seaweed: Storage) -> None:
    use = new_use(seaweed)  # on plain HTTP, so that these are all
    url = link(seaweed, use)
    document = bucket_policy([use]).content
    assert len(document["Statement"]) == 2
    seaweed.client().put_bucket_policy(Bucket=use.bucket.bucket, Policy=json.dumps(document))
    assert httpx.get(url).status_code == 200


def test_a_page_of_another_origin_gets_no_answer(seaweed: Storage) -> None:
    use = new_use(seaweed)
    rules = cors_rules([use], [ORIGIN]).content
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
    document = lifecycle_rules([use])
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
    """Return the state and the message of `doctor` for a policy that lacks an action.

    moto answers the request that tries s3:PutObject with status 500.
    """
    use = new_use(moto)
    (document,) = iam_documents([use])
    statements = [item for item in document.content["Statement"] if item["Action"] != action]
    keys = doubles.moto_user(moto, use.bucket.bucket, *statements)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
    doubles.check_moto_signatures(moto, enabled=True)
    check = check_permissions(S3Clients(), use)
    assert check is not None
    return check.state, check.message


def test_doctor_finds_nothing_missing_with_the_printed_policy(
    iam_moto: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, message = check_without(iam_moto, monkeypatch, None)
    assert state == "warn"
    assert message == "demo: 1 of 6 requests got no clear answer"


@pytest.mark.parametrize(("action", "state"), LACKING.items())
def test_doctor_names_an_action_that_the_credentials_lack(
    iam_moto: Storage, monkeypatch: pytest.MonkeyPatch, action: str, state: str
) -> None:
    found, message = check_without(iam_moto, monkeypatch, action)
    assert found == state
    below = "" if "List" in action else " below acme/"
    assert message.startswith(f"demo: storage denies {action}{below} (")


@pytest.mark.parametrize(
    ("status", "body", "state", "words"),
    [
        (403, b"<html>blocked</html>", "fail", "denies"),
        (403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", "warn", "clear"),
        (400, b"<Error><Code>InvalidRequest</Code></Error>", "warn", "clear"),
        (503, b"", "warn", "clear"),
    ],
)
def test_an_answer_that_proves_nothing_is_not_taken_for_a_permission(
    status: int, body: bytes, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    with running_http_storage(lambda _: StorageResponse(status, {}, body)) as server:
        bucket = Bucket("demo", "acme", "us-east-1", "path", server.url)
        check = check_permissions(S3Clients(), ProfileUse(bucket, (POLICY,)))
    assert check is not None
    assert check.state == state
    assert words in check.message


def test_doctor_tries_many_prefixes_in_part(
    seaweed: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    use = new_use(seaweed)
    policy = replace(POLICY, prefixes=tuple(f"t{number}/" for number in range(50)), kinds=("put",))
    check = check_permissions(S3Clients(), replace(use, policies=(policy,)))
    assert check is not None
    # One list, ten PUTs, ten reads.
    assert check.message == "demo: storage allows all 21 requests that were tried"


def test_doctor_tries_no_other_than_ordinary_buckets(seaweed: Storage) -> None:
    use = new_use(seaweed)
    arn = "arn:aws:s3:us-east-1:111122223333:accesspoint/reports"
    use = replace(use, bucket=replace(use.bucket, bucket=arn))
    assert check_permissions(S3Clients(), use) is None
