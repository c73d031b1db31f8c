"""Many processes append to a tree or verify it, and some of them die."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from models import Chunk, TreeHead
from tests.integration.conftest import ApplyConfig
from tests.support.audit_log.logs import generate_log
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.builders.messages import tenant_config
from tests.support.servers.databases import url_text
from tests.support.servers.waiting import wait_until
from worker.base.database_engine import read_transaction
from worker.proof.verify.verification import VerifyOptions, verify_log

ROOT = Path(__file__).parents[4]
PROCESSES = 8
KILLS = 2
LEAVES_BETWEEN_KILLS = 20


@contextmanager
def issuing(url: str, seed: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that issues grants, and kill it at the end of the block."""
    command = (sys.executable, "-m", "tests.support.audit_log.issuing_process", url, seed)
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as child:
        try:
            yield child
        finally:
            child.kill()


def tree_size(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        return connection.scalar(select(TreeHead.size).where(TreeHead.tenant == "acme")) or 0


def wait_for_leaves(engine: Engine, count: int) -> None:
    wait_until(lambda: tree_size(engine) >= count, 120)


@pytest.mark.timeout(300)
def test_the_log_of_eight_processes_verifies_after_some_were_killed(
    engine: Engine, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.proof.verify.log_rows._ITEMS_PER_RANGE", 40)
    apply_config(tenant_config())
    url = url_text(engine.url)
    with ExitStack() as stack:
        children = [stack.enter_context(issuing(url, f"{n}")) for n in range(PROCESSES)]
        for kill in range(1, KILLS + 1):
            wait_for_leaves(engine, kill * LEAVES_BETWEEN_KILLS)
            children[kill].kill()
            stack.enter_context(issuing(url, f"again {kill}"))
            # What is committed verifies at any time, also while others append.
            assert not verify_log(url, VerifyOptions(processes=2)).problems
        size = KILLS * LEAVES_BETWEEN_KILLS + PROCESSES
        wait_for_leaves(engine, size)
    result = verify_log(url, VerifyOptions())
    assert not result.problems
    assert result.counts["leaves"] == tree_size(engine)
    with read_transaction(engine) as connection:
        assert result.counts["chunks"] == connection.scalar(select(func.count()).select_from(Chunk))


@pytest.mark.timeout(120)
def test_several_processes_find_what_one_finds(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.proof.verify.log_rows._ITEMS_PER_RANGE", 3)
    log = generate_log(database_url, seed=1)
    one = VerifyOptions(max_problems=100)
    sound = verify_log(log.url, one)
    progress: list[tuple[int, int]] = []
    three = replace(one, processes=3)
    assert verify_log(log.url, three, lambda *numbers: progress.append(numbers)) == sound
    assert (sound.is_sound, progress[-1]) == (True, (sound.counts["items"], sound.counts["items"]))
    assert len({done for done, _ in progress}) > 5
    with closing(StoredTables(log.url)) as db:
        rows = db.rows("grants")
        for row in (rows[0], rows[len(rows) // 2], rows[-1]):
            db.update("grants", row, object_key="other")
    changed = verify_log(log.url, one)
    assert len(changed.problems) == 3
    assert verify_log(log.url, three) == changed
    assert verify_log(log.url, replace(three, max_problems=1)).problems == changed.problems[:1]
