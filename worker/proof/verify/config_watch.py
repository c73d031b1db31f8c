"""Compares the config in force with the log of its changes, again and again."""

from collections.abc import Sequence

from worker.base.database_engine import snapshot_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.proof.verify.config_check import find_differences
from worker.proof.verify.config_log import ConfigLog
from worker.proof.verify.stored_rows import Problem

VERIFY_HINT = "python -m worker audit verify"


def describe_differences(differences: Sequence[Problem]) -> str:
    """Return a text about differences from the log: somebody changed the tables."""
    return f"differences from the log of changes: {len(differences):,}; the first: {differences[0]}"


class ConfigWatch:
    """The job that logs differences, once as long as they stay the same."""

    def __init__(self) -> None:
        self._log = ConfigLog()

    def __call__(self, context: Context, _run: JobRun | None = None) -> dict[str, int]:
        """Compare once. Raises Transient."""
        with snapshot_transaction(context.engine) as connection:
            differences = find_differences(connection, self._log)
        problem = describe_differences(differences) if differences else None
        context.problems.note("config_differs", "config", problem, hint=VERIFY_HINT)
        return {}


watch_config = ConfigWatch()
