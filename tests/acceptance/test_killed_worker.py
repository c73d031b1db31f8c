"""A worker killed during a batch: no grant is lost, duplicated or charged twice."""

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


def count_grants(database: str) -> tuple[int, int, int]:
    """Return the number of grants, of distinct items, and of grants charged this month."""
    connection = sqlite3.connect(database.removeprefix("sqlite:///"))
    try:
        grants = connection.execute(
            "SELECT count(*), count(DISTINCT batch_number || '.' || item_number) FROM grants"
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
    with running_stack(data, tenants, dict(os.environ)) as stack, ExitStack() as replacements:
        info, worker = stack.info, stack.info.pids["worker"]
        with Client(info.broker_url, info.result_url, "acme", "tests") as client:
            batch = client.download_many("demo", [f"acme/{n}" for n in range(ITEMS)])
            results = batch.results(timeout=60)
            items = []
            for _ in range(3):
                items += [next(results) for _ in range(500)]
                os.killpg(worker, signal.SIGKILL)
                assert count_grants(info.database_url)[0] < ITEMS
                new_worker = run_workers(Commands(), data, stack.environ, ())
                worker = replacements.enter_context(new_worker)["worker"].pid
            items += results
        assert all(isinstance(item, Grant) for item in items)
        assert len({item.id for item in items if isinstance(item, Grant)}) == ITEMS
        assert count_grants(info.database_url) == (ITEMS, ITEMS, ITEMS)
