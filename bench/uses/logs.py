"""The rate at which access logs are imported, by the real command, and the memory that it takes."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Engine

from bench.memory import peak_resident_mb
from bench.metrics import Measurements
from bench.service import durable_postgres
from tests.support.builders import services
from tests.support.builders.messages import POLICY, batch_id, grant_message, tenant_config
from tests.support.uses.access_logs import aws_line
from valetkey.wire.grant_ids import grant_id
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, write_transaction
from worker.cli.database import migrate_to_head
from worker.ledger.tenant_rows import load_config, store_config
from worker.rules.tenant_config import Bucket, TenantConfig

LINES = 200_000
_GRANTS = 20_000
_CHUNK = 1_000
_SHARE = 10  # one of so many lines of the first log names a grant
_SAMPLE_SECONDS = 0.02
_KEYS = {"AWS_ACCESS_KEY_ID": "BENCH", "AWS_SECRET_ACCESS_KEY": "bench"}
_ROOT = Path(__file__).parents[2]
_OTHER = "list-type=2&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2Fs3&X-Amz-Signature=01"

Grants = Sequence[tuple[str, str]]
"""Object keys, and the ids of their grants."""


def measure() -> Measurements:
    """Measure both databases, with a log whose lines are seldom downloads, and one of downloads."""
    os.environ.update(_KEYS)
    with tempfile.TemporaryDirectory(prefix="valetkey-bench-") as folder:
        path = Path(folder)
        figures = _measure(f"sqlite:///{path}/data/valetkey.db", path, "sqlite")
        with durable_postgres() as postgres:
            return figures | _measure(postgres, path, "postgres")


def _measure(database_url: str, folder: Path, name: str) -> Measurements:
    grants = create_grants(database_url)
    few, every = folder / f"{name}-few.log", folder / f"{name}-all.log"
    write_log(few, grants, LINES, _SHARE)
    write_log(every, grants, LINES, 1)
    few_rate, _ = _import(few, database_url, LINES // _SHARE)
    every_rate, memory = _import(every, database_url, LINES)
    figures: Measurements = {
        f"log_lines_per_second_{name}": few_rate,
        f"log_downloads_per_second_{name}": every_rate,
    }
    return figures | ({"log_import_rss_mb": memory} if name == "sqlite" else {})


def create_grants(database_url: str) -> Grants:
    """Create a database with download grants, and return their keys and ids."""
    migrate_to_head(database_url)
    engine = create_database_engine(database_url)
    bucket = Bucket("demo", "valetkey-demo", "us-east-1", "path")
    config = TenantConfig({"demo": bucket}, tenant_config(policies={"demo": POLICY}).tenants)
    with write_transaction(engine) as connection:
        store_config(connection, load_config(connection), config, clock.now())
    grants = list(_issue(engine))
    engine.dispose()
    return grants


def _issue(engine: Engine) -> Iterator[tuple[str, str]]:
    service = services.build_service(engine, S3Clients(), clock.now)
    batch = batch_id()
    keys = [f"acme/{n}.pdf" for n in range(_GRANTS)]
    message = grant_message(keys, batch=batch)
    for chunk, start in enumerate(range(0, _GRANTS, _CHUNK)):
        items = message["items"][start : start + _CHUNK]
        part = {"chunk_size": _CHUNK, "chunk": chunk, "items": items}
        if service.issue(message | part)["status"] != "issued":
            raise RuntimeError("the downloads were refused")
        yield from ((keys[n], grant_id(batch, n)) for n in range(start, start + _CHUNK))


def write_log(path: Path, grants: Grants, lines: int, share: int) -> None:
    """Write an access log; one of `share` lines names a grant."""
    now = clock.now().strftime("%d/%b/%Y:%H:%M:%S +0000")
    with path.open("wb") as log:
        for number in range(lines):
            key, grant = grants[number % len(grants)]
            request = {"time": now, "request_id": f"{path.stem}-{number:012X}"}
            other = {"query": _OTHER} if number % share else {}
            log.write(aws_line(grant, key, **request, **other))


def _import(path: Path, database_url: str, downloads: int) -> tuple[float, float]:
    """Import a log; return its lines a second, with the command's start, and the MB it took."""
    environ = dict(os.environ) | {"VALETKEY_DATABASE_URL": database_url}
    command = [sys.executable, "-m", "worker", "usage", "import", str(path)]
    start, peak_mb = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, cwd=_ROOT, env=environ, stdout=subprocess.PIPE, text=True
    ) as child:
        while child.poll() is None:
            peak_mb = max(peak_mb, peak_resident_mb(child.pid))
            time.sleep(_SAMPLE_SECONDS)
        output = child.stdout.read() if child.stdout else ""
    seconds = time.perf_counter() - start
    if child.returncode or not output.startswith(f"{downloads:,} downloads recorded"):
        raise RuntimeError(f"the import failed: {output}")
    return LINES / seconds, peak_mb
