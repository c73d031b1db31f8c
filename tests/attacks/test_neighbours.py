"""A tenant whose endpoint accepts connections and never responds delays no other tenant."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from models import Delivery, Manifest
from tests.acceptance.conftest import ROOT
from tests.attacks.conftest import AttackTable
from tests.support.builders.delivery_service import SECRET, repeat_delivery
from tests.support.builders.messages import POLICY, batch_id, grant_message
from tests.support.builders.services import InProcessService, build_service
from tests.support.servers.databases import open_engine
from tests.support.servers.programs import worker_environ
from tests.support.servers.waiting import wait_until
from tests.support.servers.webhook_receiver import (
    WebhookReceiver,
    respond_with,
    running_receiver,
    silent_endpoint,
)
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.dev.child_processes import ChildProcess, Program, running
from worker.dev.embedded_servers import Storage, create_buckets
from worker.rules.tenant_config import Bucket, Quota, Tenant, TenantConfig, WebhookEndpoint
from worker.webhooks.webhook_delivery import LIMITS

PENDING = 200
SWEEP = timedelta(seconds=2)
ALLOWANCE = timedelta(seconds=2)


@dataclass
class Neighbourhood:
    """A running upkeep worker, the service over its database, and a neighbour's receiver."""

    service: InProcessService
    receiver: WebhookReceiver
    worker: ChildProcess
    broker_url: str

    def attempts(self) -> int:
        """Return the number of attempts that were begun for the silent endpoint."""
        return sum(row.attempts for row in self.service.rows(Delivery) if row.tenant == "acme")


def neighbours_config(silent: socket.socket, receiver: WebhookReceiver) -> TenantConfig:
    def hook(port: int) -> dict[str, WebhookEndpoint]:
        return {"hook": WebhookEndpoint("hook", f"http://127.0.0.1:{port}/", "env:HOOK")}

    policies = {"demo": replace(POLICY, prefixes=("acme/",))}
    live = (Quota("grants", "live", 3),)
    return TenantConfig(
        {"demo": Bucket("demo", "neighbours", "us-east-1", "path")},
        {
            "acme": Tenant(
                "acme", "queue", policies=policies, endpoints=hook(silent.getsockname()[1])
            ),
            "globex": Tenant(
                "globex", "queue", policies=policies, quotas=live, endpoints=hook(receiver.port)
            ),
        },
    )


def globex_message(seconds: int = 300, **changes: Any) -> dict[str, Any]:
    grant = {"kind": "download", "bucket": "demo", "expires_in": seconds}
    return grant_message(tenant="globex", grant=grant, **changes)


@pytest.fixture
def neighbourhood(
    database_url: str,
    valkey_url: str,
    seaweed: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Neighbourhood]:
    """An upkeep worker that already waits for the silent endpoint of acme."""
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    create_buckets(seaweed.client(), {"neighbours"})
    with (
        open_engine(database_url) as engine,
        silent_endpoint() as silent,
        running_receiver(respond_with(204)) as receiver,
    ):
        service = build_service(engine, S3Clients(seaweed.endpoint), clock.now)
        service.apply(neighbours_config(silent, receiver))
        service.issue(grant_message(callback="hook"))
        repeat_delivery(engine, PENDING - 1)
        program = upkeep_worker(database_url, valkey_url, seaweed, tmp_path)
        with running(program, lambda _: True, stop_timeout=20) as worker:
            place = Neighbourhood(service, receiver, worker, valkey_url)
            wait_until(lambda: place.attempts() >= LIMITS.per_key, what="acme is being called")
            yield place
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()  # its heartbeat would be found by the tests that have no worker


def upkeep_worker(database_url: str, valkey_url: str, storage: Storage, folder: Path) -> Program:
    environ = worker_environ(
        valkey_url,
        valkey_url,
        VALETKEY_DATABASE_URL=database_url,
        VALETKEY_S3_ENDPOINT=storage.endpoint,
        VALETKEY_DEVELOPMENT="1",
        VALETKEY_CONCURRENCY="1",
        VALETKEY_SWEEP_SECONDS=str(SWEEP.total_seconds()),
        AWS_ACCESS_KEY_ID=storage.access_key,
        AWS_SECRET_ACCESS_KEY=storage.secret_key,
        HOOK=SECRET,
    )
    command = (sys.executable, "-m", "worker", "run", "--only", "upkeep")
    return Program("upkeep", command, ROOT, folder / "upkeep.log", environ)


def seconds_until(predicate: Callable[[], object], what: str) -> float:
    start = time.monotonic()
    wait_until(predicate, 20, what)
    return time.monotonic() - start


@pytest.mark.timeout(90)
def test_a_silent_endpoint_delays_no_webhook_no_quota_no_manifest_and_no_grant(
    neighbourhood: Neighbourhood, attack_table: AttackTable
) -> None:
    place, allowance = neighbourhood, ALLOWANCE.total_seconds()
    assert place.service.issue(globex_message(callback="hook"))["status"] == "issued"
    with Celery(broker=place.broker_url, set_as_current=False) as app:  # as issuing workers do
        app.send_task("valetkey.deliver", queue="valetkey.upkeep", expires=60)
    webhook = seconds_until(lambda: place.receiver.bodies, "the neighbour's webhook has arrived")

    id_ = batch_id()
    place.service.issue(globex_message(batch=id_, manifest=f"acme/{id_}.jsonl.gz"))
    manifest = seconds_until(
        lambda: [row.state for row in place.service.rows(Manifest)] == ["written"],
        "the neighbour's manifest is written",
    )

    lifetime = 2
    assert place.service.issue(globex_message(lifetime))["status"] == "issued"
    assert place.service.issue(globex_message())["refusal"]["code"] == "quota_exceeded"
    waited = seconds_until(
        lambda: place.service.issue(globex_message())["status"] == "issued",
        "the neighbour's expired grant is released",
    )
    released = waited - lifetime

    attack_table.add("a neighbour's webhook, manifest, quota beside a silent endpoint", 3, 0)
    attack_table.notes.append(
        f"beside a silent endpoint: webhook {webhook:.2f} s, manifest {manifest:.2f} s, "
        f"quota {released:.2f} s"
    )
    log = place.worker.log.read_text()
    assert webhook < allowance
    assert manifest < SWEEP.total_seconds() + allowance
    assert released < SWEEP.total_seconds() + allowance
    assert "Discarding" not in log  # no trigger waits for a job, so none expires unread
    with redis.Redis.from_url(place.broker_url) as server:
        wait_until(lambda: server.llen("valetkey.upkeep") == 0, 5, "all triggers are consumed")
