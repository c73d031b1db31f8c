"""Tests what webhooks and buckets get."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from standardwebhooks import Webhook

from tests.integration.conftest import ApplyConfig
from tests.integration.usecases.checkpoints.conftest import Grow
from tests.support.builders.messages import DEMO, batch_id, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.crypto.checkpoints import KEYS, problems, publish, settings
from tests.support.servers.webhook_receiver import respond_with, running_receiver
from worker.core.tenants.config import TenantConfig
from worker.core.tree.signed_note import verify_note
from worker.db.engine import write_transaction
from worker.db.tree.checkpoints import (
    edge_of_checkpoint,
    insert_checkpoint,
    read_last_checkpoint,
)
from worker.devstack.storage import Storage
from worker.net.webhook_client import WebhookClient
from worker.usecases.checkpoints import sign
from worker.usecases.checkpoints.publish import MAX_LOST_SECONDS, publish_checkpoints

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_webhook_gets_signed_checkpoints(service: InProcessService, grow: Grow) -> None:
    note = grow()
    context = replace(
        service.context,
        now=lambda: datetime.now(UTC),
        environ={"AUDIT_SECRET": SECRET},
        webhook_client=lambda: WebhookClient(development=True),
    )
    with running_receiver(respond_with(204)) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hooks?token=s3cret"
        (row,) = publish(context, url)
    assert (row.problem, row.label) == (None, "webhook 127.0.0.1")
    values = Webhook(SECRET).verify(receiver.bodies[0], receiver.headers[0])
    assert values["type"] == "audit.checkpoint"
    assert (values["tenant"], values["size"], values["note"]) == ("acme", 1, note)
    assert verify_note(values["note"], [KEYS.signer.verifier])


def test_a_webhook_that_fails_gets_each_checkpoint_later_and_is_named_without_its_url(
    service: InProcessService, grow: Grow
) -> None:
    grow()
    context = replace(
        service.context,
        environ={"AUDIT_SECRET": SECRET},
        webhook_client=lambda: WebhookClient(development=True),
    )
    with running_receiver(respond_with(503)) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hooks?token=s3cret"
        (row,) = publish(context, url)
        assert row.problem == "it responded with 503"
        assert "s3cret" not in repr(row)
        assert "s3cret" not in repr(settings(url))
    (row,) = publish(context, url)
    assert row.problem is not None
    assert row.problem.startswith("connection_failed")
    assert "s3cret" not in row.problem


def test_a_destination_that_does_not_respond_keeps_no_other_one_waiting(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    grow()
    with write_transaction(service.context.engine) as connection:
        checkpoint = read_last_checkpoint(connection, "acme")
        assert checkpoint is not None
        edge = edge_of_checkpoint(checkpoint)
        assert edge is not None
        for number in range(5):
            signed = sign._sign_edge(KEYS, f"tenant-{number}", edge, checkpoint.signed_at)
            insert_checkpoint(connection, signed)
    (tmp_path / "broken").write_text("a file instead of a folder")
    destinations = settings(tmp_path / "broken", tmp_path / "good")
    clock = count(0.0, MAX_LOST_SECONDS / 2)  # each attempt takes so long
    rows = publish_checkpoints(service.context, destinations, monotonic=lambda: next(clock))
    assert Counter(row.label for row in rows if row.problem) == {str(tmp_path / "broken"): 2}
    assert len(list((tmp_path / "good").iterdir())) == 6


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        (None, "VALETKEY_AUDIT_WEBHOOK_SECRET is not set"),
        ("env:MISSING", "env:MISSING is not set in the environment of this process"),
    ],
)
def test_a_webhook_without_a_secret_gets_nothing(
    service: InProcessService, grow: Grow, reference: str | None, problem: str
) -> None:
    grow()
    context = replace(service.context, environ={})
    hooks = settings("https://hooks.example.com/x", audit_webhook_secret=reference)
    assert problems(list(publish_checkpoints(context, hooks))) == [problem]


@pytest.fixture
def bucket(
    ministack: Storage,
    apply_config: ApplyConfig,
    grow: Grow,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A client of a new bucket, with the profile `evidence`, that keeps objects for ten years."""
    del grow
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    client = ministack.client()
    name = f"checkpoints-{batch_id()}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Years": 10}}
    lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    client.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=lock)
    config = tenant_config()
    profile = replace(DEMO, name="evidence", bucket=name, endpoint=ministack.endpoint)
    apply_config(TenantConfig({**config.buckets, "evidence": profile}, config.tenants))
    return lambda method, **params: getattr(client, method)(Bucket=name, **params)


def test_a_bucket_with_object_lock_keeps_each_checkpoint(
    service: InProcessService, grow: Grow, bucket: Any
) -> None:
    note = grow()
    (row,) = publish(service.context, "s3://evidence/audit")
    assert (row.problem, row.label) == (None, "s3://evidence/audit/")
    key = "audit/acme/000000000001.checkpoint"
    stored = bucket("get_object", Key=key)
    assert stored["Body"].read().decode() == note
    assert stored["ObjectLockMode"] == "COMPLIANCE"
    years = stored["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert years > timedelta(days=3_640)
    with pytest.raises(ClientError, match="AccessDenied"):
        bucket("delete_object", Key=key, VersionId=stored["VersionId"])


def test_another_object_in_the_bucket_is_not_replaced(
    service: InProcessService, grow: Grow, bucket: Any
) -> None:
    grow()
    key = "acme/000000000001.checkpoint"
    bucket("put_object", Key=key, Body=b"of a rewritten log")
    (problem,) = problems(publish(service.context, "s3://evidence"))
    assert problem is not None
    assert "another object has this key" in problem
    assert bucket("get_object", Key=key)["Body"].read() == b"of a rewritten log"
