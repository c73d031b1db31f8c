"""What storage and STS answer, on each double of AWS. moto takes part here alone.

moto proves no signature.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.builders import services
from tests.support.builders.messages import POLICY, grant_message, tenant_config
from tests.support.s3 import doubles
from tests.support.s3.doubles import ALLOW_ALL, ANSWERS, DENY_ALL, DOUBLES, MOTO, ROLE_SERVERS
from tests.support.s3.stores import SERVERS
from tests.support.servers.databases import migrated_file, open_engine
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.dev.embedded_servers import Storage
from worker.rules.tenant_config import Bucket, TenantConfig

CODES = {
    "NoSuchBucket": ("bucket_unusable", "grant.bucket"),
    "InvalidAccessKeyId": ("bucket_unusable", "grant.bucket"),
    "SignatureDoesNotMatch": ("bucket_unusable", "grant.bucket"),
    "AccessDenied": ("bucket_unusable", "grant.bucket"),
    "AccessControlListNotSupported": ("acl_not_allowed", "grant.acl"),
    "KMS.NotFoundException": ("encryption_not_allowed", "grant.encryption"),
}
SECONDS = 900
ASSUME = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
KMS_KEY = "arn:aws:kms:us-east-1:000000000000:key/missing"
TERMS: dict[str, dict[str, Any]] = {
    "AccessControlListNotSupported": {"acl": "public-read"},
    "KMS.NotFoundException": {"encryption": {"algorithm": "aws:kms", "key": KMS_KEY}},
}


class Double:
    """A server, a bucket of its own, and keys that may use it."""

    def __init__(self, name: str, storage: Storage) -> None:
        self.name = name
        self.storage = storage
        self.bucket = f"answers-{uuid.uuid4().hex}"
        self.keys = storage.access_key, storage.secret_key
        client = doubles.aws_client(storage, "s3")
        client.create_bucket(Bucket=self.bucket, ObjectOwnership="BucketOwnerEnforced")
        if name == MOTO:
            self.keys = doubles.moto_user(storage, self.bucket, ALLOW_ALL)

    def arrange(self, answer: str) -> None:
        """Prepare the server for a request that AWS would refuse with this code."""
        access_key, secret_key = self.keys
        match answer:
            case "NoSuchBucket":
                doubles.aws_client(self.storage, "s3").delete_bucket(Bucket=self.bucket)
            case "InvalidAccessKeyId":
                self.keys = "AKIAUNKNOWNUNKNOWNAB", secret_key
            case "SignatureDoesNotMatch":
                self.keys = access_key, "another-secret-key"
            case "AccessDenied" if self.name == MOTO:
                self.keys = doubles.moto_user(self.storage, f"{self.bucket}-denied")
            case "AccessDenied":
                statement = DENY_ALL | {"Resource": f"arn:aws:s3:::{self.bucket}/*"}
                doubles.aws_client(self.storage, "s3").put_bucket_policy(
                    Bucket=self.bucket, Policy=doubles.policy_document(statement)
                )


class RoleOwner:
    """A server, and a role with access to all of its buckets."""

    def __init__(self, name: str, storage: Storage) -> None:
        self.name = name
        self.storage = storage
        self.role = doubles.Role(storage, f"role-{uuid.uuid4().hex}")
        self.keys = storage.access_key, storage.secret_key
        if name == MOTO:
            self.keys = doubles.moto_user(storage, self.role.name, ASSUME)

    def deny(self) -> None:
        """Let nobody assume the role."""
        if self.name == MOTO:
            self.keys = doubles.moto_user(self.storage, f"{self.role.name}-denied")
        else:
            self.role.delete()


@pytest.fixture(params=DOUBLES)
def storage(request: pytest.FixtureRequest) -> Iterator[tuple[str, Storage]]:
    """The name of each stand-in for AWS in turn, and the server."""
    fixture = {SERVERS[0]: "seaweed"}.get(request.param, request.param)
    storage = request.getfixturevalue(fixture)
    yield request.param, storage
    if request.param == MOTO:
        doubles.check_moto_signatures(storage, enabled=False)


@pytest.fixture
def double(storage: tuple[str, Storage]) -> Double:
    return Double(*storage)


@pytest.fixture
def owner(storage: tuple[str, Storage]) -> RoleOwner:
    return RoleOwner(*storage)


@pytest.fixture(scope="module")
def answers_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_engine(migrated_file(tmp_path_factory.mktemp("answers") / "valetkey.db")) as engine:
        yield engine


Issue = Callable[..., dict[str, Any]]


@pytest.fixture
def issue(answers_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Issue:
    """A function that requests one grant with the keys of a server, from a bucket profile."""

    def issue_with_keys(
        server: Double | RoleOwner, bucket: Bucket, terms: dict[str, Any], **item: Any
    ) -> dict[str, Any]:
        if server.name == MOTO:
            doubles.check_moto_signatures(server.storage, enabled=True)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.keys[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.keys[1])
        policy = replace(POLICY, kms_keys=(KMS_KEY,))
        config = TenantConfig({"demo": bucket}, tenant_config(policies={"demo": policy}).tenants)
        s3 = S3Clients(sts_endpoint=server.storage.endpoint)
        message = grant_message(grant={"bucket": "demo", **terms})
        service = services.build_service(answers_engine, s3, clock.now)
        service.apply(config)
        return service.issue(message | {"items": [{"key": "acme/a", **item}]})

    return issue_with_keys


def profile(server: Double | RoleOwner, bucket: str) -> Bucket:
    return Bucket("demo", bucket, "us-east-1", "path", server.storage.endpoint)


def request_link(issue: Issue, owner: RoleOwner) -> dict[str, Any]:
    """Return the outcome of a request for one link that is signed by a session of the role."""
    bucket = replace(profile(owner, "sessions"), role_arn=owner.role.arn, role_seconds=SECONDS)
    return issue(owner, bucket, {"kind": "download", "expires_in": 3_600})


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_final_answer_is_a_refusal_with_storages_words(
    issue: Issue, double: Double, answer: str
) -> None:
    double.arrange(answer)
    terms = {"kind": "multipart", "expires_in": 300, "max_size": 1_000, **TERMS.get(answer, {})}
    outcome = issue(double, profile(double, double.bucket), terms, size=10)
    result = outcome.get("refusal") or outcome["items"][0]
    if double.name not in ANSWERS[answer]:
        assert result["method"] == "POST"  # the table says that this server starts the upload
        return
    assert (result["code"], result["field"]) == CODES[answer]
    assert result["message"].startswith(f"storage refused it: {answer}: ")
    assert double.keys[0] not in result["message"]


@pytest.mark.parametrize("storage", ROLE_SERVERS, indirect=True)
def test_a_grant_ends_with_the_session_that_signs_it(issue: Issue, owner: RoleOwner) -> None:
    begin = clock.now()
    (grant,) = request_link(issue, owner)["items"]
    assert grant["limited_by"] == "credentials"
    remaining = datetime.fromisoformat(grant["expires_at"]) - begin
    assert timedelta(seconds=SECONDS - 60) < remaining < timedelta(seconds=SECONDS + 60)


@pytest.mark.parametrize("storage", ROLE_SERVERS, indirect=True)
def test_a_role_that_denies_is_a_refusal_without_its_name(issue: Issue, owner: RoleOwner) -> None:
    owner.deny()
    refusal = request_link(issue, owner)["refusal"]
    assert (refusal["code"], refusal["field"]) == ("bucket_unusable", "grant.bucket")
    assert owner.role.name not in refusal["message"]
