import pytest

from tests.support.cli.audit_log import LOG, write_batches
from tests.support.cli.operator import Run, run_audit


@pytest.fixture
def run(database: str) -> Run:
    """A function that runs `audit` on a log of three batches."""
    write_batches(database, *LOG)
    return run_audit
