"""The CPU time of a short command, compared with that of a Python that does nothing."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from bench.comparison import Spread, alternate, compare, inverse
from bench.metrics import Measurements
from tests.support.cli.audit_log import LOG, write_batches
from worker.cli.database import migrate_to_head

ROUNDS = 15
_PYTHON = (sys.executable, "-c", "pass")
_HELP = (sys.executable, "-c", "from valetkey.cli.main import main; main()", "--help")
_LIST = (sys.executable, "-m", "worker", "audit", "list")


def measure() -> Measurements:
    """Measure the help of `valetkey`, and a page of a small audit log in SQLite."""
    with tempfile.TemporaryDirectory(prefix="valetkey-bench-") as folder:
        url = f"sqlite:///{Path(folder) / 'valetkey.db'}"
        migrate_to_head(url)
        write_batches(url, *LOG)
        environ = dict(os.environ) | {"VALETKEY_DATABASE_URL": url}
        return {
            "valetkey_help_vs_python": _compare_with_python(_HELP, environ),
            "audit_list_vs_python": _compare_with_python(_LIST, environ),
        }


def _compare_with_python(command: tuple[str, ...], environ: Mapping[str, str]) -> Spread:
    ours, theirs = (partial(_cpu_seconds, words, environ) for words in (command, _PYTHON))
    ours()  # writes the compiled modules
    return compare(alternate(ours, theirs, ROUNDS)).ratio.map(inverse)


def _cpu_seconds(command: tuple[str, ...], environ: Mapping[str, str]) -> float:
    """Run a command, and return the CPU time that it took: neighbours change that least."""
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
