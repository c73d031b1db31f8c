"""Many processes append to a tree, and some of them die."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from models import Chunk, TreeHead
from tests.integration.conftest import ApplyConfig
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
    engine: Engine, apply_config: ApplyConfig
) -> None:
    apply_config(tenant_config())
    url = url_text(engine.url)
    with ExitStack() as stack:
        children = [stack.enter_context(issuing(url, f"{n}")) for n in range(PROCESSES)]
        for kill in range(1, KILLS + 1):
            wait_for_leaves(engine, kill * LEAVES_BETWEEN_KILLS)
            children[kill].kill()
            stack.enter_context(issuing(url, f"again {kill}"))
            # What is committed verifies at any time, also while others append.
            assert not verify_log(url, VerifyOptions()).problems
        size = KILLS * LEAVES_BETWEEN_KILLS + PROCESSES
        wait_for_leaves(engine, size)
    result = verify_log(url, VerifyOptions())
    assert not result.problems
    assert result.counts["leaves"] == tree_size(engine) + 1  # and that of the config
    with read_transaction(engine) as connection:
        assert result.counts["chunks"] == connection.scalar(select(func.count()).select_from(Chunk))
