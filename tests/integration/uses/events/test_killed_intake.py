"""The intake killed at each step: nothing is lost, and nothing counted twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models import Leaf, StoredObject, Use
from tests.integration.uses.events.conftest import BUCKET, Intake
from tests.support.servers.waiting import wait_until
from tests.support.uses import killed_intake
from tests.support.uses.notifications import TestQueue
from worker.dev.embedded_servers import Storage

pytestmark = pytest.mark.slow

UPLOADS = 23  # several calls of SQS
PATIENCE = 100  # seconds: a process starts slowly beside others


@contextmanager
def running_intake(
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
            process.wait(PATIENCE)


# Each step on SQLite; on PostgreSQL those that a transaction is at.
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize(
    ("database_url", "step"),
    [
        *(("sqlite", step) for step in sorted(killed_intake.STEPS.keys() - {"never"})),
        *(("postgresql", step) for step in ("recording", "recorded")),
    ],
    indirect=["database_url"],
)
def test_nothing_is_lost_or_counted_twice_if_the_intake_is_killed(
    step: str,
    database_url: str,
    intake: Intake,
    queue: TestQueue,
    storage: Storage,
    tmp_path: Path,
) -> None:
    queue.listen_to(storage, BUCKET)
    for grant in intake.request("put", *(f"acme/{n}" for n in range(UPLOADS))):
        intake.store(grant, b"0123456789")
    with running_intake(step, database_url, storage.endpoint, tmp_path) as process:
        assert process.wait(PATIENCE) == -signal.SIGKILL
    with running_intake("never", database_url, storage.endpoint, tmp_path):
        wait_until(lambda: len(intake.rows(Use.group_id)) == UPLOADS, PATIENCE)
        queue.wait_until_empty(PATIENCE)
    assert len(intake.rows(Use.group_id)) == len(intake.rows(StoredObject.bucket)) == UPLOADS
    leaves = intake.rows(Leaf.reference, Leaf.kind)
    groups = {(group, "use") for (group,) in intake.rows(Use.group_id)}
    assert sorted(leaf for leaf in leaves if leaf[1] == "use") == sorted(groups)
