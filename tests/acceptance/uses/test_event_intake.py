"""`worker run` reads the queue of a bucket profile as soon as one names it, and logs no secret."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import redis

from models import Use
from tests.support.builders.messages import POLICY, tenant_config
from tests.support.builders.services import InProcessService, build_service
from tests.support.servers.databases import migrated_file, open_engine
from tests.support.servers.waiting import wait_until
from tests.support.uses.notifications import TestQueue
from tests.support.uses.uploading import Uploader
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.dev.embedded_servers import Storage, create_buckets
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.shared.worker_states import read_heartbeats, workers_by_queue
from worker.uses.events.event_queues import queue_id

BUCKET, KEY = "intake-events", "acme/only-the-owner-may-see-this.png"


@pytest.fixture
def storage(ministack: Storage, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    create_buckets(ministack.client(), {BUCKET})
    return ministack


@pytest.fixture
def queue(storage: Storage) -> Iterator[TestQueue]:
    sqs = boto3.client("sqs", "us-east-1", endpoint_url=storage.endpoint)
    queue = TestQueue(sqs)
    queue.listen_to(storage, BUCKET)
    yield queue
    sqs.delete_queue(QueueUrl=queue.url)
    sqs.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[InProcessService]:
    with open_engine(migrated_file(tmp_path / "valetkey.db")) as engine:
        yield build_service(engine, S3Clients(), clock.now)


def apply_config(service: InProcessService, storage: Storage, queue_url: str | None) -> None:
    bucket = Bucket("demo", BUCKET, "us-east-1", "path", storage.endpoint, events_queue=queue_url)
    policies = {"demo": replace(POLICY, overwrite=True)}
    service.apply(TenantConfig({"demo": bucket}, tenant_config(policies=policies).tenants))


def consumed_queues(client: redis.Redis) -> Collection[str]:
    """Return the queues that live workers consume."""
    return workers_by_queue(read_heartbeats(client))


@pytest.mark.timeout(180)
def test_a_running_service_reads_a_queue_once_a_profile_names_it_and_logs_no_secret(
    service: InProcessService, storage: Storage, queue: TestQueue, valkey_url: str, tmp_path: Path
) -> None:
    apply_config(service, storage, None)
    environ = dict(os.environ) | {
        "VALETKEY_DATABASE_URL": str(service.engine.url),
        "VALETKEY_BROKER_URL": valkey_url,
        "VALETKEY_RESULT_URL": valkey_url,
        "VALETKEY_CONCURRENCY": "1",
    }
    command = [sys.executable, "-m", "worker", "run", "--loglevel", "DEBUG"]
    log = tmp_path / "run.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, env=environ, stderr=stderr) as process,
        redis.Redis.from_url(valkey_url) as client,
    ):
        try:
            wait_until(lambda: "valetkey" in consumed_queues(client), 60, "the workers start")
            apply_config(service, storage, queue.url)
            name = f"events:{queue_id(queue.url)}"
            wait_until(lambda: name in consumed_queues(client), 60, "the queue is read")
            uploader = Uploader(service)
            grant = uploader.put(KEY, 3)
            uploader.store(grant, b"123")
            wait_until(lambda: len(service.rows(Use)) == 1, 60, "the upload is recorded")
            wait_until(lambda: queue.counts() == (0, 0), 30, "the message is deleted")
        finally:
            process.terminate()
            assert process.wait(30) == 0
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (line,) = [each for each in lines if each["event"] == "events_handled" and each["recorded"]]
    assert (line["messages"], line["ignored"], line["waiting"]) == (1, {}, {})
    signature = grant.url.rpartition("=")[2]
    for secret in (storage.secret_key, signature, queue.url, "only-the-owner"):
        assert secret not in text
