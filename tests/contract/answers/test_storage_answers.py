"""What storage refuses for good is a refusal with its words, on each double of AWS.

moto takes part here and in test_session_answers.py alone: it proves no signature.
"""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.builders import services
from tests.support.builders.messages import POLICY, grant_message, tenant_config
from tests.support.s3 import doubles
from tests.support.s3.doubles import ALLOW_ALL, ANSWERS, DENY_ALL, DOUBLES, MOTO
from tests.support.s3.stores import SERVERS
from tests.support.servers.databases import migrated_file
from worker import clock
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Bucket, TenantConfig
from worker.db import tenants
from worker.db.engine import create_database_engine, write_transaction
from worker.devstack.storage import Storage

CODES = {
    "NoSuchBucket": ("bucket_unusable", "grant.bucket"),
    "InvalidAccessKeyId": ("bucket_unusable", "grant.bucket"),
    "SignatureDoesNotMatch": ("bucket_unusable", "grant.bucket"),
    "AccessDenied": ("bucket_unusable", "grant.bucket"),
    "AccessControlListNotSupported": ("acl_not_allowed", "grant.acl"),
    "KMS.NotFoundException": ("encryption_not_allowed", "grant.encryption"),
}
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


@pytest.fixture(params=DOUBLES)
def double(request: pytest.FixtureRequest) -> Iterator[Double]:
    """Each stand-in for AWS in turn."""
    fixture = {SERVERS[0]: "seaweed"}.get(request.param, request.param)
    storage = request.getfixturevalue(fixture)
    yield Double(request.param, storage)
    if request.param == MOTO:
        doubles.check_moto_signatures(storage, enabled=False)


@pytest.fixture(scope="module")
def answers_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    url = migrated_file(tmp_path_factory.mktemp("answers") / "valetkey.db")
    engine = create_database_engine(url)
    yield engine
    engine.dispose()


def request_upload(
    engine: Engine, double: Double, patch: pytest.MonkeyPatch, terms: dict[str, Any]
) -> dict[str, Any]:
    """Return the outcome of a request for one multipart upload with the double's keys."""
    if double.name == MOTO:
        doubles.check_moto_signatures(double.storage, enabled=True)
    patch.setenv("AWS_ACCESS_KEY_ID", double.keys[0])
    patch.setenv("AWS_SECRET_ACCESS_KEY", double.keys[1])
    policy = replace(POLICY, kms_keys=(KMS_KEY,))
    bucket = Bucket("demo", double.bucket, "us-east-1", "path", double.storage.endpoint)
    config = TenantConfig({"demo": bucket}, tenant_config(policies={"demo": policy}).tenants)
    with write_transaction(engine) as connection:
        before = tenants.load_config(connection)
        tenants.store_config(connection, before, config, clock.now())
    service = services.build_service(engine, S3Clients(), clock.now)
    grant = {"kind": "multipart", "bucket": "demo", "expires_in": 300, "max_size": 1_000}
    message = grant_message(["acme/a"], grant=grant | terms)
    return service.issue(message | {"items": [{"key": "acme/a", "size": 10}]})


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_final_answer_is_a_refusal_with_storages_words(
    answers_engine: Engine, double: Double, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.arrange(answer)
    outcome = request_upload(answers_engine, double, monkeypatch, TERMS.get(answer, {}))
    result = outcome.get("refusal") or outcome["items"][0]
    if double.name not in ANSWERS[answer]:
        assert result["method"] == "POST"  # the table says that this server starts the upload
        return
    assert (result["code"], result["field"]) == CODES[answer]
    assert result["message"].startswith(f"storage refused it: {answer}: ")
    assert double.keys[0] not in result["message"]


def test_moto_accepts_every_signature_and_proves_none(moto: Storage) -> None:
    client = doubles.aws_client(moto, "s3", aws_secret_access_key="another-secret-key")
    client.create_bucket(Bucket="unproven-signatures")
    assert MOTO not in SERVERS  # the servers of all tests of signatures
