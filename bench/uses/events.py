"""The rate at which event notifications are recorded, by the real process that reads them.

The queue, and the storage that is asked for objects, are one server of the same protocols in this
process: MiniStack would need more of the machine than the intake does.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from sqlalchemy import Engine

from bench.metrics import Measurements
from bench.service import durable_postgres
from bench.uses.sqs_server import SqsServer, running_sqs_server
from tests.support.builders import services
from tests.support.builders.messages import POLICY, batch_id, grant_message, tenant_config
from tests.support.servers.waiting import wait_until
from tests.support.uses.notifications import aws_record, body, minio_record
from valetkey.wire.grant_ids import grant_id
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, write_transaction
from worker.cli.database import migrate_to_head
from worker.dev.child_processes import Program, running
from worker.ledger.tenant_rows import load_config, store_config
from worker.rules.tenant_config import Bucket, TenantConfig

EVENTS = 20_000
_HEAD_EVENTS = 5_000
_SINGLE_EVENTS = 100
_CHUNK = 1_000
_KEYS = {"AWS_ACCESS_KEY_ID": "BENCH", "AWS_SECRET_ACCESS_KEY": "bench"}
_ROOT = Path(__file__).parents[2]

GrantIds = Mapping[str, str]
"""The ids of grants, by object key."""


def measure() -> Measurements:
    """Measure both databases, with records that name their grant and with ones that do not."""
    os.environ.update(_KEYS)
    with tempfile.TemporaryDirectory(prefix="valetkey-bench-") as folder:
        sqlite = f"sqlite:///{folder}/data/valetkey.db"
        measurements = _measure(sqlite, Path(folder), "sqlite")
        with durable_postgres() as postgres:
            return measurements | _measure(postgres, Path(folder), "postgres")


def _measure(database_url: str, folder: Path, name: str) -> Measurements:
    stored: dict[str, str] = {}
    with running_sqs_server(stored) as server, _engine(database_url, server) as engine:
        named, single = _issue(engine, EVENTS), _issue(engine, _SINGLE_EVENTS)
        unnamed = _issue(engine, _HEAD_EVENTS)
        stored.update((f"/bench/{key}", grant) for key, grant in unnamed.items())
        with _intake(database_url, folder, name) as pid:
            seconds = [_measure_run(server, pid, [text])[0] for text in _minio_bodies(single)]
            named_seconds, named_cpu = _measure_run(server, pid, _minio_bodies(named))
            unnamed_seconds, unnamed_cpu = _measure_run(server, pid, _aws_bodies(unnamed))
    return {
        f"events_per_minute_{name}": EVENTS / named_seconds * 60,
        f"events_with_head_per_minute_{name}": _HEAD_EVENTS / unnamed_seconds * 60,
        f"event_cpu_us_{name}": named_cpu / EVENTS * 1e6,
        f"event_with_head_cpu_us_{name}": unnamed_cpu / _HEAD_EVENTS * 1e6,
        f"event_to_deletion_ms_{name}": median(seconds) * 1e3,
    }


@contextmanager
def _engine(database_url: str, server: SqsServer) -> Iterator[Engine]:
    """Create a database whose only bucket profile names the server's queue."""
    migrate_to_head(database_url)
    engine = create_database_engine(database_url)
    bucket = Bucket("demo", "bench", "us-east-1", "path", server.endpoint, events_queue=server.url)
    config = TenantConfig({"demo": bucket}, tenant_config(policies={"demo": POLICY}).tenants)
    with write_transaction(engine) as connection:
        store_config(connection, load_config(connection), config, clock.now())
    yield engine
    engine.dispose()


def _issue(engine: Engine, number: int) -> GrantIds:
    """Issue a batch of uploads, and return their ids by object key."""
    service = services.build_service(engine, S3Clients(), clock.now)
    batch = batch_id()
    keys = [f"acme/{batch}/{n}.png" for n in range(number)]
    terms = {"kind": "upload", "bucket": "demo", "expires_in": 3_600, "max_size": 500_000}
    message = grant_message(keys, batch=batch, grant=terms | {"content_type": "image/png"})
    for chunk, start in enumerate(range(0, number, _CHUNK)):
        items = message["items"][start : start + _CHUNK]
        part = {"chunk_size": _CHUNK, "chunk": chunk, "items": items}
        if service.issue(message | part)["status"] != "issued":
            raise RuntimeError("the uploads were refused")
    return {key: grant_id(batch, n) for n, key in enumerate(keys)}


@contextmanager
def _intake(database_url: str, folder: Path, name: str) -> Iterator[int]:
    """Run the process that reads the queue; yield its process id."""
    environ = dict(os.environ) | {
        "VALETKEY_DATABASE_URL": database_url,
        "VALETKEY_BROKER_URL": "redis://127.0.0.1:1/0",
        "VALETKEY_RESULT_URL": "redis://127.0.0.1:1/0",
    }
    command = (sys.executable, "-m", "worker.uses.events.event_intake", "WARNING")
    log = folder / f"{name}.log"
    with running(Program("the intake", command, _ROOT, log, environ), lambda _: True) as child:
        yield child.pid


def _minio_bodies(grants: GrantIds) -> list[str]:
    now = clock.now()
    records = (minio_record(key, now, grant) for key, grant in grants.items())
    return [body(_in_bucket(record)) for record in records]


def _aws_bodies(grants: GrantIds) -> list[str]:
    now = clock.now()
    return [body(_in_bucket(aws_record(key, now))) for key in grants]


def _in_bucket(
    record: dict[str, dict[str, dict[str, str]]],
) -> dict[str, dict[str, dict[str, str]]]:
    record["s3"]["bucket"]["name"] = "bench"
    return record


def _measure_run(server: SqsServer, pid: int, bodies: Sequence[str]) -> tuple[float, float]:
    """Return the seconds until all events are committed and deleted, and those of the CPU.

    They begin with the receipt of the first.
    """
    server.reset()
    cpu = _cpu_seconds(pid)
    server.send(bodies)
    wait_until(lambda: server.deleted == len(bodies), 600, "all events are deleted")
    return server.elapsed, _cpu_seconds(pid) - cpu


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in user and system mode. Source: proc_pid_stat(5)."""
    values = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
