"""Tests where checkpoints are published, and that a destination that fails gets them later."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr
from standardwebhooks import Webhook

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import DEMO, Clock, batch_id, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.servers.webhook_receiver import respond_with, running_receiver
from worker.context import Context
from worker.core.tenants.config import TenantConfig
from worker.core.tree.signed_note import SignerKey, verify_note
from worker.db.tree.checkpoints import Publication
from worker.devstack.storage import Storage
from worker.net.webhook_client import WebhookClient
from worker.settings import Settings
from worker.usecases.audit.checkpoints import sign_checkpoints
from worker.usecases.audit.publications import publish_checkpoints
from worker.usecases.audit.signing_key import CheckpointKeys
from worker.usecases.upkeep.checkpoints import CheckpointJob

KEYS = CheckpointKeys(SignerKey("audit.example.com/valetkey", bytes(range(32))))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
Grow = Callable[[], str]


@pytest.fixture
def grow(service: InProcessService, apply_config: ApplyConfig) -> Grow:
    """A function that grants one download, signs the log, and returns the note."""
    apply_config(tenant_config())

    def grow() -> str:
        assert "refusal" not in service.issue(grant_message())
        (result,) = sign_checkpoints(service.context, KEYS)
        assert result.checkpoint is not None
        assert result.is_new
        return result.checkpoint.note

    return grow


def settings(*destinations: str | Path, **changes: Any) -> Settings:
    text = ",".join(map(str, destinations))
    values = {"audit_webhook_secret": "env:AUDIT_SECRET"} | changes
    return Settings(audit_checkpoints=SecretStr(text), **values)


def publish(context: Context, *destinations: str | Path) -> list[Publication]:
    return list(publish_checkpoints(context, settings(*destinations)))


def problems(rows: list[Publication]) -> list[str | None]:
    return [row.problem for row in rows]


def notes(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "acme").iterdir())}


def test_each_checkpoint_becomes_a_file_of_its_tenant(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    written = []
    for _ in range(3):
        written.append(grow())
        assert problems(publish(service.context, tmp_path)) == [None]
        assert publish(service.context, tmp_path) == []  # nothing is due
    assert list(notes(tmp_path).values()) == written
    assert list(notes(tmp_path)) == [f"00000000000{size}.checkpoint" for size in (1, 2, 3)]


def test_a_folder_that_fails_gets_all_checkpoints_later(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    grow()
    assert problems(publish(service.context, folder)) == [None]
    folder.rename(tmp_path / "away")
    folder.write_text("a file where the folder was")
    written = [grow(), grow()]
    failed = publish(service.context, folder)
    assert [(row.size, row.label) for row in failed] == [(1, str(folder))]
    assert problems(failed) == ["File exists"] or problems(failed) == ["Not a directory"]
    folder.unlink()
    assert problems(publish(service.context, folder)) == [None]
    assert list(notes(folder).values()) == written


def test_a_new_destination_gets_the_newest_checkpoint_only(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    grow()
    newest = grow()
    publish(service.context, tmp_path / "a")
    assert list(notes(tmp_path / "a").values()) == [newest]


def test_a_destination_that_fails_keeps_no_other_from_its_checkpoints(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    note = grow()
    rows = publish(service.context, tmp_path / "file", "s3://nosuch/x", tmp_path / "folder")
    assert [row.problem is None for row in rows] == [False, False, True]
    assert rows[1].problem == "there is no bucket profile nosuch"
    assert list(notes(tmp_path / "folder").values()) == [note]


def test_another_checkpoint_of_the_same_size_is_not_replaced(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    grow()
    path = tmp_path / "acme" / "000000000001.checkpoint"
    path.parent.mkdir()
    path.write_text("of a rewritten log")
    (problem,) = problems(publish(service.context, tmp_path))
    assert problem == f"another checkpoint is in {path}"
    assert path.read_text() == "of a rewritten log"
    assert list(notes(tmp_path)) == [path.name]


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


class Timer:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_the_upkeep_worker_signs_and_publishes_at_its_interval(
    service: InProcessService, apply_config: ApplyConfig, tmp_path: Path, clock: Clock
) -> None:
    apply_config(tenant_config())
    key_file = tmp_path / "key"
    key_file.write_text(KEYS.signer.dump())
    key_file.chmod(0o600)
    values = {"audit_key_file": key_file, "audit_origin": KEYS.signer.name}
    timer = Timer()
    job = CheckpointJob(lambda: settings(tmp_path / "out", **values), timer)
    counts = []
    for seconds in (0.0, 3_599.0, 1.0, 3_600.0):
        service.issue(grant_message())
        clock.forward(seconds=seconds)
        timer.seconds += seconds
        counts.append(job(service.context))
    done = {"signed": 1, "refused": 0, "published": 1, "failed": 0}
    assert counts == [done, {}, done, done]
    assert len(notes(tmp_path / "out")) == 3


def test_the_upkeep_worker_signs_nothing_without_a_key(service: InProcessService) -> None:
    assert CheckpointJob(Settings)(service.context) == {}
