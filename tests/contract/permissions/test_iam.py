"""The IAM policies of `permissions`, under moto's enforcement of policies of identities.

moto checks actions and resources of requests that are signed in a header. It checks no conditions,
no presigned requests, and the permissions of ACLs and tags not at all. A link's request is sent
with a header instead: AWS names its action and resource alike.
"""

import io
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest

from tests.support.s3 import doubles
from valetkey.signing.sigv4 import Credentials
from worker import clock
from worker.aborts.listed_uploads import list_uploads
from worker.aws import object_calls
from worker.aws.credentials import CredentialCache
from worker.aws.s3_clients import make_client
from worker.aws.storage_calls import call_storage
from worker.dev.embedded_servers import Storage
from worker.errors import Malformed, Transient
from worker.permissions.iam_documents import iam_documents
from worker.revoke.kept_statements import read_policy
from worker.revoke.role_policies import RolePolicies
from worker.rules.role_session import role_session
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket, Policy
from worker.shared.aws_permissions import ProfileUse, all_permissions
from worker.shared.object_files import ObjectFile, put_object
from worker.shared.stored_files import FileReader, StoredFile
from worker.uses.events.event_queues import EventQueue

NOT_PROVEN = {"s3:PutObjectAcl", "s3:PutObjectTagging", "kms:Decrypt", "kms:GenerateDataKey"}
# moto names a call of a batch by itself; AWS, "Actions defined by Amazon SQS": DeleteMessage.
MOTO_NAMES = {"sqs:DeleteMessage": "sqs:DeleteMessageBatch"}
EVENT = '{"Records": []}'
SINCE = datetime(2026, 11, 26, tzinfo=UTC)


class Account:
    """An account on moto with a bucket, a queue and a role, and calls that the service makes."""

    def __init__(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.storage, self._monkeypatch = storage, monkeypatch
        self.name = f"permissions-{uuid.uuid4().hex[:12]}"
        s3, sqs = doubles.aws_client(storage, "s3"), doubles.aws_client(storage, "sqs")
        s3.create_bucket(Bucket=self.name)
        versioning = {"Status": "Enabled"}
        s3.put_bucket_versioning(Bucket=self.name, VersioningConfiguration=versioning)
        stored = s3.put_object(Bucket=self.name, Key="acme/a", Body=b"a")
        self.version: str = stored["VersionId"]
        self.queue_url: str = sqs.create_queue(QueueName=self.name)["QueueUrl"]
        self.role = doubles.Role(storage, self.name)
        arn = sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=["QueueArn"])
        account = arn["Attributes"]["QueueArn"].split(":")[4]
        on_aws = f"https://sqs.us-east-1.amazonaws.com/{account}/{self.name}"
        self.bucket = Bucket(
            "demo", self.name, "us-east-1", "path", storage.endpoint, versioned=True
        )
        policy = Policy("demo", ("acme/",), ("download", "upload", "put", "multipart"), 60, 1_000)
        with_acls = replace(policy, acls=("private",), kms_keys=(f"arn:aws:kms:r:{account}:key/k",))
        prefixes = {"logs": ("acme/",), "export": ("acme/",), "live": ("acme/",), "revoke": ("",)}
        self.uses = [
            ProfileUse(
                replace(self.bucket, events_queue=on_aws),
                (with_acls,),
                counts_stored=True,
                own_prefixes=("acme/",),
                options=prefixes,
            ),
            # The workers' own credentials assume the role; it has a document of its own.
            ProfileUse(
                replace(self.bucket, name="role", role_arn=self.role.arn),
                options={"end-sessions": ("",)},
            ),
        ]

    def statements(self) -> list[dict[str, Any]]:
        """Return the statements of the policy of the workers' credentials."""
        documents = {document.name: document for document in iam_documents(self.uses)}
        statements: list[dict[str, Any]] = documents["workers-default"].content["Statement"]
        return statements

    def refused_without(self, action: str | None) -> set[str]:
        """Return the features that moto refuses to a user whose policy lacks an action."""
        statements = [_without(statement, action) for statement in self.statements()]
        user = f"{self.name}-{uuid.uuid4().hex[:8]}"
        doubles.check_moto_signatures(self.storage, enabled=False)
        keys = doubles.moto_user(self.storage, user, *filter(None, statements))
        sqs = doubles.aws_client(self.storage, "sqs")
        sqs.send_message(QueueUrl=self.queue_url, MessageBody=EVENT)
        self._monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
        self._monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
        client = make_client(self.bucket, self.storage.endpoint, Credentials(*keys))
        doubles.check_moto_signatures(self.storage, enabled=True)
        return {name for name, feature in FEATURES.items() if _is_refused(feature, self, client)}


def _without(statement: dict[str, Any], action: str | None) -> dict[str, Any] | None:
    """Return a statement as moto understands it, without an action."""
    names = statement["Action"]
    names = [names] if isinstance(names, str) else names
    names = [MOTO_NAMES.get(name, name) for name in names if name != action]
    kept = {name: value for name, value in statement.items() if name != "Condition"}
    return {**kept, "Action": names} if names else None


Feature = Callable[[Account, Any], Any]


def _is_refused(feature: Feature, account: Account, client: Any) -> bool:
    try:
        answer = feature(account, client)
    except (Malformed, Transient) as error:
        answer = str(error)
    if isinstance(answer, ErrorResponse):
        answer = answer.code
    if answer is None or isinstance(answer, dict | StoredFile):
        return False
    assert any(word in answer for word in ("Denied", "403", "hidden")), answer
    return True


def _get(account: Account, client: Any, **params: str) -> Any:
    return call_storage(client.get_object, Bucket=account.name, Key="acme/a", **params)


def _store_manifest(account: Account, client: Any) -> Any:
    file = ObjectFile(io.BytesIO(b"x"), sha256(b"x").digest(), "text/plain", may_replace=True)
    return put_object(client, account.bucket, "acme/m", file, lambda: None)


def _multipart(account: Account, client: Any) -> Any:
    started = object_calls.start_upload(client, account.name, "acme/u", {})
    if isinstance(started, ErrorResponse):
        return started
    assert list_uploads(client, account.name, "acme/u")
    return object_calls.abort_upload(client, account.name, "acme/u", started.upload_id)


def _list(account: Account, client: Any) -> Any:
    return call_storage(client.list_objects_v2, Bucket=account.name, Prefix="acme/")


def _events(account: Account, _client: Any) -> None:
    queue = EventQueue(account.queue_url, account.bucket)
    queue.count_messages()
    messages = queue.receive(0)
    assert queue.delete(messages) == 0
    queue.close()


def _assume(account: Account, _client: Any) -> None:
    session = role_session(account.role.arn, account.bucket, "acme", ("acme/",))
    cache = CredentialCache(account.storage.endpoint)
    cache.get(None, session, clock.now(), timedelta(0))


def _end_sessions(account: Account, _client: Any) -> None:
    policies = RolePolicies(account.storage.endpoint)
    policies.end_sessions(account.bucket, account.role.arn, SINCE)
    policies.remove(account.bucket, account.role.arn, SINCE)


def _revoke(account: Account, client: Any) -> Any:
    policy = doubles.policy_document(
        doubles.DENY_ALL | {"Resource": f"arn:aws:s3:::{account.name}/x"}
    )
    answer = call_storage(client.put_bucket_policy, Bucket=account.name, Policy=policy)
    read_policy(client, account.name)
    deleted = call_storage(client.delete_bucket_policy, Bucket=account.name)
    return answer if isinstance(answer, ErrorResponse) else deleted


def _delete(account: Account, client: Any) -> Any:
    answer = call_storage(client.delete_object, Bucket=account.name, Key="acme/d")
    if isinstance(answer, ErrorResponse):
        return answer
    version = {"VersionId": answer["VersionId"]} if "VersionId" in answer else {"VersionId": "null"}
    return call_storage(client.delete_object, Bucket=account.name, Key="acme/d", **version)


FEATURES: Mapping[str, Feature] = {
    "downloads": _get,
    "versions": lambda account, client: _get(account, client, VersionId=account.version),
    "manifests": _store_manifest,
    "multipart": _multipart,
    "probes": lambda account, client: FileReader(client, account.bucket).find("acme/a"),
    "lists of logs and checkpoints": _list,
    "versioning": lambda account, client: call_storage(
        client.get_bucket_versioning, Bucket=account.name
    ),
    "events": _events,
    "role sessions": _assume,
    "the end of sessions": _end_sessions,
    "revocation": _revoke,
    "doctor --live": _delete,
}

REFUSED: Mapping[str, set[str]] = {
    "s3:GetObject": {"downloads", "probes"},
    "s3:GetObjectVersion": {"versions"},
    "s3:PutObject": {"manifests", "multipart"},
    "s3:AbortMultipartUpload": {"multipart"},
    "s3:ListBucketMultipartUploads": {"multipart"},
    "s3:ListBucket": {"lists of logs and checkpoints"},
    "s3:GetBucketVersioning": {"versioning"},
    "sqs:ReceiveMessage": {"events"},
    "sqs:DeleteMessage": {"events"},
    "sqs:GetQueueAttributes": {"events"},
    "sts:AssumeRole": {"role sessions"},
    "iam:GetRole": {"the end of sessions"},
    "iam:GetRolePolicy": {"the end of sessions"},
    "iam:PutRolePolicy": {"the end of sessions"},
    "iam:DeleteRolePolicy": {"the end of sessions"},
    "s3:GetBucketPolicy": {"revocation"},
    "s3:PutBucketPolicy": {"revocation"},
    "s3:DeleteBucketPolicy": {"revocation"},
    "s3:DeleteObject": {"doctor --live"},
    "s3:DeleteObjectVersion": {"doctor --live"},
}
"""The features that are refused without an action."""


@pytest.fixture
def account(moto: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    yield Account(moto, monkeypatch)
    doubles.check_moto_signatures(moto, enabled=False)


def test_every_feature_works_with_the_printed_policy(account: Account) -> None:
    assert account.refused_without(None) == set()


@pytest.mark.parametrize("action", REFUSED)
def test_without_an_action_its_features_are_refused(account: Account, action: str) -> None:
    assert account.refused_without(action) == REFUSED[action]


def test_every_action_of_the_table_is_proven_or_named_as_not_proven() -> None:
    actions = {action for permission in all_permissions() for action in permission.actions}
    assert actions == {*REFUSED, *NOT_PROVEN}


def test_a_prefix_is_all_that_the_policy_opens(account: Account) -> None:
    for statement in account.statements():
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            is_object = resource.startswith(f"arn:aws:s3:::{account.name}/")
            assert not is_object or resource == f"arn:aws:s3:::{account.name}/acme/*", json.dumps(
                statement
            )
