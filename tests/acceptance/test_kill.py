"""The worker is killed in the middle of a batch: nothing is lost, doubled or charged twice."""

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT
from tests.waiting import wait_until
from valetkey import Client, Grant
from worker.embedded.service import Commands, working
from worker.embedded.stack import stack

ITEMS = 20_000


def count(database: str) -> tuple[int, int, int]:
    """Grants, distinct items, and what was charged for them this month."""
    connection = sqlite3.connect(database.removeprefix("sqlite:///"))
    try:
        grants = connection.execute(
            "SELECT count(*), count(DISTINCT batch || '.' || number) FROM grants"
        ).fetchone()
        used = connection.execute(
            "SELECT coalesce(sum(used), 0) FROM usage"
            " WHERE metric = 'grants' AND \"window\" = 'month'"
        ).fetchone()
        return *grants, *used
    finally:
        connection.close()


@pytest.mark.parametrize("attempt", range(3))
def test_a_batch_survives_a_killed_worker(tmp_path: Path, attempt: int) -> None:
    tenants = ROOT / "examples" / "tenants.toml"
    data = tmp_path / "data"
    with stack(data, tenants, dict(os.environ)) as up:
        running = up.running
        with Client(running.broker_url, running.result_url, "acme", "tests") as client:
            batch = client.download_many("demo", [f"acme/{n}" for n in range(ITEMS)])
            answers = batch.results(timeout=60)
            got = [next(answers) for _ in range(500 * (attempt + 1))]
            os.killpg(running.pids["worker"], signal.SIGKILL)
            done_when_killed = count(running.database_url)[0]
            with working(Commands(), data, up.environ, ()):
                got += answers
        assert done_when_killed < ITEMS
        assert all(isinstance(answer, Grant) for answer in got)
        assert len({answer.id for answer in got if isinstance(answer, Grant)}) == ITEMS
        wait_until(lambda: count(running.database_url) == (ITEMS, ITEMS, ITEMS), what="the rows")
