"""Faults that alerts are for. Each one is a block: the fault begins with it, and ends with it."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, update

from models import Base, Checkpoint, CheckpointPublication, Delivery, Denial, Reservation
from tests.support.alerts.watched_service import WORKER_ROLE, WatchedService
from tests.support.builders.any_row import insert_any
from tests.support.builders.frames import build_frame, call_text, celery_headers
from tests.support.builders.messages import grant_message, upload_message
from tests.support.faults.injections import full_disk
from tests.support.servers.waiting import wait_until
from tests.support.servers.webhook_receiver import respond_with
from tests.support.uses.reports import stored
from valetkey.wire import INTERACTIVE_QUEUE
from valetkey.wire.waiting import (
    LANE_STATES,
    SERVICE_FIELD,
    WAITING_LANES,
    dump_lane_state,
    lane_key,
)
from worker import clock
from worker.base.database_engine import write_transaction
from worker.broker.dead_letters import KEY as DEAD_LETTERS
from worker.broker.queues import HEARTBEAT_PREFIX, Heartbeat
from worker.proof.checkpoint_rows import SIGNING
from worker.uses.use_recorder import record_uses

Inject = Callable[[WatchedService], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """A fault, its name, and the alerts that it causes, besides others."""

    name: str
    alerts: tuple[str, ...]
    inject: Inject


@contextmanager
def change_password(service: WatchedService) -> Iterator[None]:
    """Let the database refuse the workers' password, and end their connections."""
    password = f"ALTER ROLE {WORKER_ROLE} PASSWORD "
    end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = "
    service.execute(f"{password} 'another'", f"{end_sessions} '{WORKER_ROLE}'")
    try:
        yield
    finally:
        service.execute(f"{password} '{WORKER_ROLE}-password'")


@contextmanager
def make_read_only(service: WatchedService) -> Iterator[None]:
    setting = "ALTER SYSTEM SET default_transaction_read_only = "
    service.execute(f"{setting} on", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        service.execute(f"{setting} off", "SELECT pg_reload_conf()")


@contextmanager
def stop_postgres(service: WatchedService) -> Iterator[None]:
    assert service.postgres is not None
    service.postgres.stop("fast")
    try:
        yield
    finally:
        service.postgres.start()


@contextmanager
def fill_up_redis(service: WatchedService) -> Iterator[None]:
    with service.redis() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
        try:
            yield
        finally:
            client.config_set("maxmemory", "1gb")


@contextmanager
def demote_redis(service: WatchedService) -> Iterator[None]:
    with service.broker.demoted():
        yield


@contextmanager
def kill_redis(service: WatchedService) -> Iterator[None]:
    service.broker.kill()
    try:
        yield
    finally:
        service.broker.start()


@contextmanager
def freeze_workers(service: WatchedService) -> Iterator[None]:
    """Stop all processes of the worker, while an old request waits, and expired grants."""
    service.service.issue(grant_message())
    service.worker.send(signal.SIGSTOP)
    _age(service, Reservation, "expires_at")
    try:
        with service.redis() as client:
            # The first ones go to the workers that wait for them, though they are stopped.
            client.rpush(INTERACTIVE_QUEUE, *[_frame(sent_at=_hours_ago(1).timestamp())] * 5)
        yield
    finally:
        service.worker.send(signal.SIGCONT)


@contextmanager
def flood(service: WatchedService) -> Iterator[None]:
    """Put a long backlog into the queue, while the worker is stopped."""
    service.worker.send(signal.SIGSTOP)
    with service.redis() as client:
        client.rpush(INTERACTIVE_QUEUE, *[_frame()] * 20_101)  # some go to workers that wait
        try:
            yield
        finally:
            client.delete(INTERACTIVE_QUEUE)
            service.worker.send(signal.SIGCONT)


@contextmanager
def fill_lane(service: WatchedService) -> Iterator[None]:
    """Let a tenant be busy, with a lane that is nearly full, while nothing serves lanes."""
    service.worker.send(signal.SIGSTOP)
    lane = lane_key("acme")
    with service.redis() as client:
        states = {
            SERVICE_FIELD: dump_lane_state(100, {}),
            "acme": dump_lane_state(100, {"acme": 7}),
        }
        client.hset(LANE_STATES, mapping=states)
        client.persist(LANE_STATES)
        client.rpush(lane, *[_frame()] * 81)
        client.sadd(WAITING_LANES, "acme")
        try:
            yield
        finally:
            client.delete(LANE_STATES, lane)
            service.worker.send(signal.SIGCONT)


@contextmanager
def freeze_children(service: WatchedService) -> Iterator[None]:
    """Stop the pool's children: their parent reports and later replaces them."""
    children = [child.pid for child in service.worker.working_children()]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    yield


@contextmanager
def skew_clock(service: WatchedService) -> Iterator[None]:
    """Let the clocks of workers be an hour slow. They compare them when they start."""
    service.skew.write_text("-3600")
    service.worker.kill()
    try:
        yield
    finally:
        service.skew.write_text("0")
        service.worker.kill()


@contextmanager
def run_old_release(service: WatchedService) -> Iterator[None]:
    """Write the heartbeat of a worker of another release, which lasts until it is deleted."""
    now, key = clock.now(), f"{HEARTBEAT_PREFIX}issue@old:1"
    heartbeat = Heartbeat("issue@old", (), 1, 1, now, now, {}, "issue", "old", "0.0.9")
    with service.redis(1) as client:
        client.set(key, json.dumps(heartbeat._asdict(), default=str))
        try:
            yield
        finally:
            client.delete(key)


@contextmanager
def add_dead_letter(service: WatchedService) -> Iterator[None]:
    with service.redis() as client:
        client.lpush(DEAD_LETTERS, "{}")
        try:
            yield
        finally:
            client.delete(DEAD_LETTERS)


@contextmanager
def send_junk(service: WatchedService) -> Iterator[None]:
    with service.redis() as client:
        client.rpush(INTERACTIVE_QUEUE, *["{}"] * 11)
    yield


@contextmanager
def send_unsigned_requests(service: WatchedService) -> Iterator[None]:
    with service.redis() as client:
        client.rpush(INTERACTIVE_QUEUE, *(_frame(tenant="vault") for _ in range(101)))
    yield


@contextmanager
def use_up_quota(service: WatchedService) -> Iterator[None]:
    service.service.issue(grant_message([f"acme/{n}" for n in range(95)], tenant="globex"))
    yield
    service.command("quota", "set", "globex", "grants", "day", "1000")


@contextmanager
def break_endpoint(service: WatchedService) -> Iterator[None]:
    """Let the endpoint of webhooks fail, while some are sent that have been due for an hour."""
    service.receiver.respond = respond_with(503)
    for _ in range(6):
        service.service.issue(grant_message(callback="hook"))
    wait_until(lambda: len(service.receiver.paths) > 5, what="the endpoint is paused")
    _age(service, Delivery, "next_attempt_at", Delivery.state == "pending")
    try:
        yield
    finally:
        service.receiver.respond = respond_with(204)
        service.command("webhooks", "enable", "acme/hook")


@contextmanager
def disable_endpoint(service: WatchedService) -> Iterator[None]:
    service.command("webhooks", "disable", "acme/hook")
    try:
        yield
    finally:
        service.command("webhooks", "enable", "acme/hook")


@contextmanager
def store_too_much(service: WatchedService) -> Iterator[None]:
    """Record that an upload was larger than granted. Later, 20 others make it a rare case."""
    item = service.service.issue(upload_message())["items"][0]
    report = stored(item["id"], item["key"], clock.now(), size=500_001, source="event")
    record_uses([report], service.service.context)
    yield
    service.service.issue(upload_message([f"acme/{number}.png" for number in range(20)]))


@contextmanager
def change_quota_by_sql(service: WatchedService) -> Iterator[None]:
    change = 'UPDATE quotas SET "limit" = "limit" {} 1'
    service.execute(change.format("+"))
    try:
        yield
    finally:
        service.execute(change.format("-"))


@contextmanager
def _with_row(service: WatchedService, table: type[Base], **values: Any) -> Iterator[None]:
    with write_transaction(service.engine) as connection:
        connection.execute(insert_any(table, **values))
    try:
        yield
    finally:
        with write_transaction(service.engine) as connection:
            rows = [getattr(table, name) == value for name, value in values.items()]
            connection.execute(delete(table).where(*rows))


def miss_denial(service: WatchedService) -> AbstractContextManager[None]:
    """Record a revocation whose statement is not in the policy of its bucket."""
    lapses_at = clock.now() + timedelta(hours=1)
    return _with_row(service, Denial, bucket="demo", storage="other", lapses_at=lapses_at)


def contradict_checkpoint(service: WatchedService) -> AbstractContextManager[None]:
    """Record that the last checkpoint was not signed, as if the tree had been changed."""
    tenant, problem = "acme", "it contradicts a checkpoint"
    service.service.issue(grant_message())
    return _with_row(
        service, CheckpointPublication, destination=SIGNING, tenant=tenant, problem=problem
    )


@contextmanager
def sign_nothing(service: WatchedService) -> Iterator[None]:
    """Let the newest checkpoint be old, until a newer one is added."""
    for _ in range(2):
        service.service.issue(grant_message())
    for size, signed_at in ((1, _hours_ago(3)), (2, clock.now())):
        with write_transaction(service.engine) as connection:
            row = insert_any(Checkpoint, size=size, edge=None, signed_at=signed_at)
            connection.execute(row)
        if size == 1:
            yield


@contextmanager
def freeze_metrics(service: WatchedService) -> Iterator[None]:
    service.metrics.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.metrics.send_signal(signal.SIGCONT)


@contextmanager
def delay_requests(service: WatchedService) -> Iterator[None]:
    """Let requests be answered that were sent 7 seconds ago."""
    with service.redis() as client:
        client.rpush(INTERACTIVE_QUEUE, *[_frame(sent_at=time.time() - 7)] * 3)
    yield


def _hours_ago(hours: int) -> datetime:
    return clock.now() - timedelta(hours=hours)


def _age(service: WatchedService, table: type[Base], column: str, *conditions: Any) -> None:
    with write_transaction(service.engine) as connection:
        connection.execute(update(table).where(*conditions).values({column: _hours_ago(1)}))


def _frame(sent_at: float | None = None, tenant: str = "acme") -> str:
    """Return the text of a message with a request."""
    request = grant_message(tenant=tenant)
    changes = {} if sent_at is None else {"sent_at": int(sent_at * 1_000)}
    headers = celery_headers(id=request["batch"], root_id=request["batch"], **changes)
    return json.dumps(build_frame(call_text(request), headers))


FAULTS = (
    Fault("workers' password wrong", ("ProbeFailing", "DatabaseDown"), change_password),
    Fault("PostgreSQL read-only", ("ProbeFailing", "DatabaseDown"), make_read_only),
    Fault("PostgreSQL stopped", ("ProbeFailing", "DatabaseDown"), stop_postgres),
    Fault("Redis full", ("BrokerDown", "ResultStoreDown", "RedisMemory"), fill_up_redis),
    Fault("Redis a replica", ("BrokerDown", "ResultStoreDown"), demote_redis),
    Fault("Redis killed", ("BrokerDown", "ResultStoreDown"), kill_redis),
    Fault(
        "workers frozen",
        ("NoWorker", "ProbeFailing", "BacklogOld", "UpkeepBehind"),
        freeze_workers,
    ),
    Fault("20,001 messages while workers are frozen", ("BacklogLong",), flood),
    Fault("a lane nearly full", ("LaneNearlyFull", "TenantBusy"), fill_lane),
    Fault("child processes frozen", ("WorkerStuck",), freeze_children),
    Fault("clocks of workers wrong", ("ClockWrong",), skew_clock),
    Fault("a worker of another release", ("MixedReleases",), run_old_release),
    Fault("a dead letter", ("DeadLetters",), add_dead_letter),
    Fault("junk in the queue", ("MessagesDiscarded",), send_junk),
    Fault("requests without a signature", ("Rejections",), send_unsigned_requests),
    Fault("a quota of which 95% are used", ("QuotaNearlyUsed",), use_up_quota),
    Fault("an endpoint responds with 503", ("WebhooksFail", "WebhooksLate"), break_endpoint),
    Fault("an endpoint disabled", ("EndpointDisabled",), disable_endpoint),
    Fault("an upload larger than granted", ("UploadsNotAsGranted",), store_too_much),
    Fault("a quota changed by SQL", ("ConfigDiffers",), change_quota_by_sql),
    Fault("a statement missing in a policy", ("RevokedLinksServed",), miss_denial),
    Fault("a checkpoint contradicted", ("LogContradicted",), contradict_checkpoint),
    Fault("checkpoints not signed", ("LogUnsigned",), sign_nothing),
    Fault("metrics frozen", ("MetricsMissing",), freeze_metrics),
    Fault("slow requests", ("Slow",), delay_requests),
)


def fill_up_disk(service: WatchedService) -> AbstractContextManager[None]:
    return full_disk(service.disk, service.worker)


FULL_DISK = Fault("disk of SQLite full", ("ProbeFailing", "DatabaseDown"), fill_up_disk)
