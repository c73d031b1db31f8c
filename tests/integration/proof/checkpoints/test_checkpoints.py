"""Checkpoints: which trees are signed and when, and what folders, webhooks and buckets get."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr
from sqlalchemy import insert
from structlog.testing import capture_logs

from models import Checkpoint, Leaf, TreeHead
from tests.support.builders.messages import DEMO, Clock, batch_id, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.servers.webhook_receiver import respond_with, running_receiver
from valetkey.webhooks import UnknownEvent, unwrap
from worker.base.database_engine import write_transaction
from worker.context import Context
from worker.dev.embedded_servers import Storage
from worker.errors import Transient
from worker.ledger.tenant_rows import load_config, store_config
from worker.proof import checkpoints
from worker.proof.checkpoint_forks import MAX_LOST_SECONDS, edge_at
from worker.proof.checkpoint_format import SignerKey, verify_note
from worker.proof.checkpoint_key import CheckpointKeys
from worker.proof.checkpoint_rows import (
    Publication,
    insert_checkpoint,
    read_last_checkpoint,
)
from worker.proof.checkpoints import (
    REPUBLISH_SECONDS,
    RETRY_SECONDS,
    CheckpointJob,
    publish_checkpoints,
    sign_checkpoints,
)
from worker.proof.proof_settings import ProofSettings
from worker.rules.tenant_config import TenantConfig
from worker.shared.whole_files import write_private_file
from worker.webhooks.webhook_client import WebhookClient, webhook_client

KEYS = CheckpointKeys(SignerKey("audit.example.com/valetkey", bytes(range(32))))


def settings(*destinations: str | Path, **changes: Any) -> ProofSettings:
    text = ",".join(map(str, destinations))
    values = {"audit_webhook_secret": "env:AUDIT_SECRET"} | changes
    return ProofSettings(audit_checkpoints=SecretStr(text), **values)


def publish(context: Context, *destinations: str | Path) -> list[Publication]:
    return list(publish_checkpoints(context, settings(*destinations)))


def problems(rows: list[Publication]) -> list[str | None]:
    return [row.problem for row in rows]


Grow = Callable[[], str]
FORGED_ROOT = "A" * 43 + "="
FORGER = SignerKey(KEYS.signer.name, bytes(32))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def apply_unlogged(service: InProcessService, config: TenantConfig) -> None:
    """Replace the config without a log of its changes, whose tree would be signed as well."""
    with write_transaction(service.engine) as connection:
        store_config(connection, load_config(connection), config, service.context.now())


@pytest.fixture
def grow(service: InProcessService) -> Grow:
    """A function that grants one download, signs the log, and returns the note."""
    apply_unlogged(service, tenant_config())

    def grow() -> str:
        assert "refusal" not in service.issue(grant_message())
        (result,) = sign_checkpoints(service.context, KEYS, ProofSettings())
        assert result.checkpoint is not None
        assert result.is_new
        return result.checkpoint.note

    return grow


@pytest.fixture
def hooks_context(service: InProcessService) -> Context:
    """The context of a process that sends webhooks to this machine."""
    return replace(
        service.context,
        now=lambda: datetime.now(UTC),
        environ={"AUDIT_SECRET": SECRET},
        created={webhook_client: WebhookClient(development=True)},
    )


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
    (tmp_path / "away").rename(folder)
    assert problems(publish(service.context, folder)) == [None]
    assert list(notes(folder).values())[1:] == written


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
    assert problem is not None
    assert problem.startswith(f"{path.name} is no checkpoint of this log")
    assert path.read_text() == "of a rewritten log"
    assert list(notes(tmp_path)) == [path.name]


@pytest.mark.parametrize("tenant", [f"acme\n6\n{FORGED_ROOT}", "../acme", "/acme", "a+b", ""])
def test_a_tree_of_an_impossible_tenant_is_not_signed(
    service: InProcessService, grow: Grow, tenant: str
) -> None:
    grow()
    place = {"tenant": tenant, "leaf_number": 0, "kind": "cancellation", "reference": "x"}
    with write_transaction(service.engine) as connection:
        connection.execute(insert(Leaf).values(place | {"hash": bytes(32)}))
        connection.execute(insert(TreeHead).values(tenant=tenant, size=1, edge=bytes(32)))
    results = {
        result.tenant_id: result
        for result in sign_checkpoints(service.context, KEYS, ProofSettings())
    }
    assert results[tenant].checkpoint is None
    assert results[tenant].problem == "no tenant can have this id"
    assert results["acme"].problem is None


@pytest.mark.parametrize("tenant", ["../other", "globex"])
@pytest.mark.parametrize("note", [FORGER.sign, str])
def test_a_checkpoint_that_this_service_did_not_sign_is_not_published(
    service: InProcessService, grow: Grow, tmp_path: Path, tenant: str, note: Callable[[str], str]
) -> None:
    grow()
    key_file = tmp_path / "audit.key"
    write_private_file(key_file, KEYS.signer.dump().encode(), replace=False)
    text = f"{KEYS.signer.name}/{tenant}\n1\n{FORGED_ROOT}\n"
    values = {"tenant": tenant, "size": 1, "root": bytes(32), "note": note(text)}
    with write_transaction(service.engine) as connection:
        moment = service.context.now()
        connection.execute(insert(Checkpoint).values(signed_at=moment, **values))
    folder = tmp_path / "a" / "checkpoints"
    options = settings(folder, audit_key_file=key_file, audit_origin=KEYS.signer.name)
    rows = {row.tenant: row for row in publish_checkpoints(service.context, options)}
    assert rows["acme"].problem is None
    assert (rows[tenant].size, rows[tenant].problem is None) == (0, False)
    assert [path.parent.name for path in tmp_path.rglob("*.checkpoint")] == ["acme"]


def test_a_webhook_gets_signed_checkpoints(
    service: InProcessService, hooks_context: Context, grow: Grow
) -> None:
    note = grow()
    with running_receiver(respond_with(204)) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hooks?token=s3cret"
        (row,) = publish(hooks_context, url)
    assert (row.problem, row.label) == (None, "webhook 127.0.0.1")
    event = unwrap(receiver.bodies[0], receiver.headers[0], SECRET)
    assert isinstance(event, UnknownEvent)
    assert (event.type, event.timestamp) == ("audit.checkpoint", service.context.now())
    values = event.data
    assert (values["tenant"], values["size"], values["note"]) == ("acme", 1, note)
    assert verify_note(values["note"], [KEYS.signer.verifier])


def test_a_webhook_that_fails_gets_each_checkpoint_later_and_is_named_without_its_url(
    hooks_context: Context, grow: Grow
) -> None:
    grow()
    with running_receiver(respond_with(503)) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hooks?token=s3cret"
        (row,) = publish(hooks_context, url)
        assert row.problem == "it responded with 503"
        assert "s3cret" not in repr(row)
        assert "s3cret" not in repr(settings(url))
    (row,) = publish(hooks_context, url)
    assert row.problem is not None
    assert row.problem.startswith("connection_failed")
    assert "s3cret" not in row.problem


def test_a_destination_that_does_not_respond_keeps_no_other_one_waiting(
    service: InProcessService, grow: Grow, tmp_path: Path
) -> None:
    grow()
    with write_transaction(service.engine) as connection:
        checkpoint = read_last_checkpoint(connection, "acme")
        assert checkpoint is not None
        edge = edge_at(connection, checkpoint)
        for number in range(5):
            signed = checkpoints._sign_edge(KEYS, f"tenant-{number}", edge, checkpoint.signed_at)
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
    ministack: Storage, service: InProcessService, grow: Grow, monkeypatch: pytest.MonkeyPatch
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
    apply_unlogged(service, TenantConfig({**config.buckets, "evidence": profile}, config.tenants))
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
    assert "is no checkpoint of this log" in problem
    assert bucket("get_object", Key=key)["Body"].read() == b"of a rewritten log"


def test_the_upkeep_worker_signs_and_publishes_at_its_interval(
    service: InProcessService, tmp_path: Path, clock: Clock
) -> None:
    key_file = tmp_path / "key"
    write_private_file(key_file, KEYS.signer.dump().encode(), replace=False)
    values = {"audit_key_file": key_file, "audit_origin": KEYS.signer.name}
    apply_unlogged(service, tenant_config())
    timer = SimpleNamespace(seconds=1_000.0)
    job = CheckpointJob(lambda: settings(tmp_path / "out", **values), lambda: timer.seconds)
    counts = []
    for seconds in (0.0, 3_599.0, 1.0, 3_600.0):
        service.issue(grant_message())
        clock.forward(seconds=seconds)
        timer.seconds += seconds
        counts.append(job(service.context))
    done = {"signed": 1, "refused": 0, "published": 1, "failed": 0}
    assert counts == [done, {}, done, done]
    assert len(list((tmp_path / "out" / "acme").iterdir())) == 3


def test_a_destination_and_a_key_that_failed_are_tried_again_before_the_next_interval(
    service: InProcessService, tmp_path: Path
) -> None:
    key_file, out = tmp_path / "key", tmp_path / "out"
    values = {"audit_key_file": key_file, "audit_origin": KEYS.signer.name}
    apply_unlogged(service, tenant_config())
    timer = SimpleNamespace(seconds=1_000.0)
    destinations = settings(out, tmp_path / "good", **values)
    job = CheckpointJob(lambda: destinations, lambda: timer.seconds)
    service.issue(grant_message())
    with pytest.raises(Transient, match="cannot be read"):
        job(service.context)
    write_private_file(key_file, KEYS.signer.dump().encode(), replace=False)
    assert job(service.context) == {}
    out.write_text("a file instead of a folder")
    timer.seconds += RETRY_SECONDS
    assert job(service.context) == {"signed": 1, "refused": 0, "published": 1, "failed": 1}
    out.unlink()
    service.issue(grant_message())
    timer.seconds += REPUBLISH_SECONDS - 1
    assert job(service.context) == {}
    timer.seconds += 1
    assert job(service.context) == {"published": 1, "failed": 0}
    timer.seconds += 3_599 - REPUBLISH_SECONDS
    assert job(service.context) == {}


def test_a_head_that_was_not_signed_is_tried_again_before_the_next_interval(
    service: InProcessService, tmp_path: Path
) -> None:
    key_file, out = tmp_path / "key", tmp_path / "out"
    write_private_file(key_file, KEYS.signer.dump().encode(), replace=False)
    options = settings(out, audit_key_file=key_file, audit_origin=KEYS.signer.name)
    apply_unlogged(service, tenant_config())
    service.issue(grant_message())
    out.write_text("a file instead of a folder")
    timer = SimpleNamespace(seconds=1_000.0)
    job = CheckpointJob(lambda: options, lambda: timer.seconds)
    with capture_logs() as log:
        assert job(service.context) == {"signed": 0, "refused": 1, "published": 0, "failed": 0}
    assert [(line["event"], line["tenant"]) for line in log] == [("checkpoint_refused", "acme")]
    assert log[0]["problem"].startswith(f"no destination can be compared: {out}: ")
    out.unlink()
    timer.seconds += REPUBLISH_SECONDS
    assert job(service.context) == {"signed": 1, "refused": 0, "published": 1, "failed": 0}


def test_the_upkeep_worker_signs_nothing_without_a_key(service: InProcessService) -> None:
    assert CheckpointJob(ProofSettings)(service.context) == {}
