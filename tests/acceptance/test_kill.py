"""The worker is killed in the middle of a batch: nothing is lost, doubled or charged twice."""

import os
import signal
import sqlite3
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT
from valetkey import Client, Grant
from worker.devstack.service import Commands, run_workers
from worker.devstack.stack import running_stack

ITEMS = 40_000


def count(database: str) -> tuple[int, int, int]:
    """Grants, distinct items, and what was charged for them this month."""
    connection = sqlite3.connect(database.removeprefix("sqlite:///"))
    try:
        grants = connection.execute(
            "SELECT count(*), count(DISTINCT batch || '.' || number) FROM grants"
        ).fetchone()
        used = connection.execute(
            "SELECT coalesce(sum(grants), 0) FROM usage WHERE \"window\" = 'month'"
        ).fetchone()
        return *grants, *used
    finally:
        connection.close()


@pytest.mark.timeout(300)
def test_a_batch_survives_a_worker_killed_three_times(tmp_path: Path) -> None:
    tenants = ROOT / "examples" / "tenants.toml"
    data = tmp_path / "data"
    with running_stack(data, tenants, dict(os.environ)) as up, ExitStack() as replacements:
        running, worker = up.running, up.running.pids["worker"]
        with Client(running.broker_url, running.result_url, "acme", "tests") as client:
            batch = client.download_many("demo", [f"acme/{n}" for n in range(ITEMS)])
            answers = batch.results(timeout=60)
            got = []
            for _ in range(3):
                got += [next(answers) for _ in range(500)]
                os.killpg(worker, signal.SIGKILL)
                assert count(running.database_url)[0] < ITEMS
                replaced = run_workers(Commands(), data, up.environ, ())
                worker = replacements.enter_context(replaced)["worker"].pid
            got += answers
        assert all(isinstance(answer, Grant) for answer in got)
        assert len({answer.id for answer in got if isinstance(answer, Grant)}) == ITEMS
        assert count(running.database_url) == (ITEMS, ITEMS, ITEMS)
