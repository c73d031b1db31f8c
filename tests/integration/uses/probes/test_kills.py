"""kill -9 at each step of settling: nothing is given back twice, and nothing is lost."""

import subprocess
import sys

import pytest

from models import EndedSlot, Settlement, Use
from tests.integration.conftest import Copies
from tests.integration.uses.probes.conftest import Slots
from tests.support.builders.services import build_context
from worker.base.database_engine import create_database_engine

# Dozens of processes, one after the other.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_process_that_is_killed_at_any_step_leaves_the_rest_to_the_next(
    slots: Slots, copies: Copies
) -> None:
    slots.store(slots.form("acme/used"), b"1234567")
    slots.request("upload", "acme/b", "acme/c")
    slots.end()
    # A database of PostgreSQL takes longer to copy: every fifth step there.
    stride = 1 if slots.engine.dialect.name == "sqlite" else 5
    module = ("-m", "tests.support.uses.killed_settling")
    arguments = (*module, slots.storage.url, slots.clock().isoformat(), str(stride))

    def run(*urls: str) -> int:
        command = [sys.executable, *arguments, *urls]
        return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    steps = run(*copies(1))
    assert steps > 10
    _, *urls = every = copies(1 + steps // stride)
    run(*every)
    slots.clock.forward(hours=7)
    for url in urls:
        engine = create_database_engine(url)
        copy = Slots(build_context(engine, slots.context.s3, slots.clock), slots.clock, slots.owner)
        copy.settle()
        assert copy.charged_bytes() == 7
        assert copy.rows(Settlement.unused) == [("",), ("0-1",)]
        assert copy.rows(Use.size) == [(7,)]
        assert copy.rows(EndedSlot.is_settled) == [(True,)] * 2  # until the second look
        engine.dispose()
