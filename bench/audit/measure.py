"""Measures the audit log on SQLite and PostgreSQL, or on one database that is given."""

import gc
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import create_engine, make_url, text

from bench.audit import figures
from bench.audit.build import build_log, cached_postgres, cached_sqlite, has_log
from bench.audit.data import DataPlan
from bench.audit.figures import BuiltLog, Figures
from bench.audit.issuing import compare_issuers, running_issuer
from bench.comparison import Spread
from bench.metrics import Measurements

ROWS = 10_000_000
CACHE = Path(tempfile.gettempdir()) / "valetkey-bench-audit"
_PARTS = (
    figures.measure_lists,
    figures.measure_whose,
    figures.measure_counts,
    figures.measure_commands,
    figures.measure_rates,
)


def measure(
    rows: int = ROWS, database: str | None = None, baseline: Path | None = None
) -> Measurements:
    """Measure on a database that is empty or has a log already; without one, on both embedded ones.

    baseline is a checkout of an earlier release, whose rate of issuing is compared.
    """
    plan = DataPlan(rows)
    measurements: Measurements = {}
    with ExitStack() as stack:
        if database is not None:
            if not has_log(database):
                build_log(database, plan)
            urls = [database]
        else:
            CACHE.mkdir(parents=True, exist_ok=True)
            servers = (cached_sqlite(CACHE, plan), cached_postgres(CACHE, plan))
            urls = [stack.enter_context(server) for server in servers]
        for url in urls:
            dialect = make_url(url).get_backend_name()
            measured = _measure(BuiltLog.open(url, plan)) | _measure_issuing(url, baseline)
            measurements |= {f"audit_{name}_{dialect}": value for name, value in measured.items()}
    return measurements


def _measure(log: BuiltLog) -> Figures:
    measured: Figures = {}
    gc.collect()
    gc.freeze()  # as the audit commands do: a search of all modules for garbage takes 70 ms
    for part in _PARTS:
        measured |= part(log)
    log.engine.dispose()
    return measured


def _measure_issuing(url: str, baseline: Path | None) -> Figures:
    with empty_database(url) as empty, running_issuer(empty) as ours:
        with running_issuer(url) as beside:
            measured = _named("issuing_beside_rows", compare_issuers(beside, ours))
        if baseline is not None:
            with empty_database(url) as other, running_issuer(other, baseline) as theirs:
                measured |= _named("issuing_vs_baseline", compare_issuers(ours, theirs))
    return measured


def _named(name: str, ratio: Spread) -> Figures:
    return {name: float(ratio), f"{name}_least": ratio.least, f"{name}_most": ratio.most}


@contextmanager
def empty_database(url: str) -> Iterator[str]:
    """Create an empty database beside the one at a URL; remove it when the block ends."""
    address, name = make_url(url), f"bench_{uuid4().hex}"
    if address.get_backend_name() == "sqlite":
        with tempfile.TemporaryDirectory(dir=Path(str(address.database)).parent) as folder:
            yield f"sqlite:///{folder}/empty.db"
        return
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield address.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()
