"""The intake killed at each step: nothing is lost, and nothing counted twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from models import Leaf, StoredObject, Use
from tests.integration.uses.events.conftest import BUCKET
from tests.support.builders.services import InProcessService
from tests.support.servers.waiting import wait_until
from tests.support.uses import killed_intake
from tests.support.uses.notifications import TestQueue
from tests.support.uses.uploading import Uploader
from worker.db.engine import read_transaction
from worker.devstack.storage import Storage

UPLOADS = 23  # several calls of SQS
STEPS = sorted(killed_intake.STEPS.keys() - {"never"})


@contextmanager
def intake(
    step: str, database_url: str, endpoint: str, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.support.uses.killed_intake", step]
    environ = dict(os.environ) | {
        "VALETKEY_DATABASE_URL": database_url,
        "VALETKEY_S3_ENDPOINT": endpoint,
        "VALETKEY_BROKER_URL": "redis://127.0.0.1:1/0",
        "VALETKEY_RESULT_URL": "redis://127.0.0.1:1/0",
    }
    with (
        (folder / f"{step}.log").open("wb") as log,
        subprocess.Popen(command, env=environ, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def count(engine: Engine, table: type[Use | StoredObject]) -> int:
    with read_transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_lost_or_counted_twice_if_the_intake_is_killed(
    step: str,
    engine: Engine,
    database_url: str,
    service: InProcessService,
    uploader: Uploader,
    queue: TestQueue,
    storage: Storage,
    tmp_path: Path,
) -> None:
    assert service.context.config.current().buckets["demo"].events_queue == queue.url
    queue.listen_to(storage, BUCKET)
    for grant in uploader.request("put", *(f"acme/{n}" for n in range(UPLOADS))):
        uploader.store(grant, b"0123456789")
    with intake(step, database_url, storage.endpoint, tmp_path) as process:
        assert process.wait(30) == -signal.SIGKILL
    with intake("never", database_url, storage.endpoint, tmp_path):
        wait_until(lambda: count(engine, Use) == UPLOADS, 40, "all uses are recorded")
        wait_until(lambda: queue.counts() == (0, 0), 40, "all messages are deleted")
    assert (count(engine, Use), count(engine, StoredObject)) == (UPLOADS, UPLOADS)
    with read_transaction(engine) as connection:
        groups = connection.scalars(select(Use.group_id).distinct()).all()
        leaves = connection.scalars(select(Leaf.reference).where(Leaf.kind == "use")).all()
    assert sorted(groups) == sorted(reference for reference in leaves if reference)
