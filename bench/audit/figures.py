"""The figures of the audit log: each is one small function over a built log."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter

from sqlalchemy import Engine, select

from bench.audit.data import END, DataPlan, batch_id, object_key, tenant_name
from models import Batch
from worker.audit.audit_rows import read_grants
from worker.audit.grant_filters import GrantFilter
from worker.audit.item_counts import CountOptions, count_items
from worker.base.database_engine import create_database_engine, read_transaction
from worker.whose.link_lookup import find_pasted
from worker.whose.link_verdicts import read_pasted_grant

_PAGE_ROWS = 50
_CALLS, _COMMANDS = 60, 11
_CHECKOUT = Path(__file__).parents[2]
_MS = 1e3


@dataclass(frozen=True)
class BuiltLog:
    """A database with a plan's log."""

    url: str
    plan: DataPlan
    engine: Engine

    @classmethod
    def open(cls, url: str, plan: DataPlan) -> "BuiltLog":
        """Open the database at a URL."""
        return cls(url, plan, create_database_engine(url))


Figures = dict[str, float]


def measure_lists(log: BuiltLog) -> Figures:
    """Measure pages of `audit list` in this process."""
    rng = Random(1)
    filters: dict[str, Callable[[], GrantFilter]] = {
        "list_tenant_time": partial(_of_tenant_and_time, rng),
        "list_key": partial(_of_key, rng, log.plan),
        "list_absent_key": partial(_of_absent_key, rng),
        "list_batch": partial(_of_batch, rng, log.plan),
        "list_decision": partial(_of_decision, rng),
    }
    figures: Figures = {}
    for name, make_filter in filters.items():
        times = [_page_ms(log, make_filter()) for _ in range(_CALLS)]
        figures |= _percentiles(name, times[_CALLS // 10 :])  # without the first: caches are cold
    return figures


def _of_tenant_and_time(rng: Random) -> GrantFilter:
    since = END - timedelta(days=rng.randrange(1, 360))
    return GrantFilter(
        tenant=tenant_name(_skewed(rng)), since=since, until=since + timedelta(days=1)
    )


def _of_key(rng: Random, plan: DataPlan) -> GrantFilter:
    key = object_key(tenant_name(0), int(plan.rows // 6 * rng.random() ** 3))
    return GrantFilter(object_key=key)


def _of_absent_key(rng: Random) -> GrantFilter:
    return GrantFilter(object_key=f"{tenant_name(0)}/absent-{rng.random()}.pdf")


def _of_batch(rng: Random, plan: DataPlan) -> GrantFilter:
    return GrantFilter(batch_id=batch_id(rng.randrange(1, plan.rows // 40)))


def _of_decision(rng: Random) -> GrantFilter:
    tenant = tenant_name(_skewed(rng))
    return GrantFilter(decisions=(rng.choice(("refused", "size_too_large")),), tenant=tenant)


def _skewed(rng: Random) -> int:
    return 0 if rng.random() < 0.5 else rng.randrange(1, 50)  # noqa: PLR2004 - half


def _page_ms(log: BuiltLog, grant_filter: GrantFilter) -> float:
    start = perf_counter()
    with read_transaction(log.engine) as connection:
        read_grants(connection, grant_filter, _PAGE_ROWS)
    return (perf_counter() - start) * _MS


def measure_whose(log: BuiltLog) -> Figures:
    """Measure `audit whose` in this process, for links whose signatures are not the issued ones."""
    rng = Random(2)
    links = [_link(log, rng) for _ in range(_CALLS)]
    times = [_whose_ms(log, link) for link in links]
    return _percentiles("whose", times[_CALLS // 10 :])


def _link(log: BuiltLog, rng: Random) -> str:
    number = rng.randrange(1, log.plan.rows // 40)
    query = select(Batch.total).where(Batch.batch_number == number)
    with read_transaction(log.engine) as connection:
        item = rng.randrange(connection.execute(query).scalar_one())
    grant, signature = f"{batch_id(number)}.{item}", rng.randbytes(32).hex()
    return (
        f"https://bench-media.s3.us-east-1.amazonaws.com/{tenant_name(0)}/statement.pdf"
        f"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261127T000000Z&X-Amz-Expires=3600"
        f"&x-grant-id={grant}&X-Amz-Signature={signature}"
    )


def _whose_ms(log: BuiltLog, link: str) -> float:
    start = perf_counter()
    with read_transaction(log.engine) as connection:
        judged = find_pasted(connection, read_pasted_grant(link))
    if not judged:
        raise RuntimeError("the grant of a link was not found, so the measurement is not valid")
    return (perf_counter() - start) * _MS


def measure_counts(log: BuiltLog) -> Figures:
    """Measure `audit count --by day` over a month, in this process."""
    month = GrantFilter(since=END - timedelta(days=60), until=END - timedelta(days=30))
    times = []
    for _ in range(5):
        start = perf_counter()
        with read_transaction(log.engine) as connection:
            count_items(connection, month, CountOptions(("day",), UTC, exact_bytes=False))
        times.append((perf_counter() - start) * _MS)
    return _percentiles("count_day", times)


def measure_commands(log: BuiltLog) -> Figures:
    """Measure pages of `audit list` and other questions as commands, with the start of Python."""
    since, until = END - timedelta(days=41), END - timedelta(days=40)
    period = ("--since", f"{since:%Y-%m-%d}", "--until", f"{until:%Y-%m-%d}")
    key = object_key(tenant_name(0), 1_000)
    commands = {
        "list_tenant_time": ("list", "--tenant", tenant_name(0), *period),
        "list_key": ("list", "--key", key),
        "list_batch": ("list", "--batch", batch_id(log.plan.rows // 100)),
        "list_decision": ("list", "--decision", "refused", "--tenant", tenant_name(0)),
        "whose": ("whose", f"{batch_id(log.plan.rows // 100)}.0"),
    }
    figures: Figures = {}
    for name, arguments in commands.items():
        times = [_command_seconds(log, *arguments) * _MS for _ in range(_COMMANDS)]
        figures |= _percentiles(f"{name}_command", times[1:])
    return figures


def measure_rates(log: BuiltLog) -> Figures:
    """Measure how many rows a second `audit verify` and `audit export` read."""
    figures: Figures = {}
    seconds = _command_seconds(log, "verify")
    figures["verify_rate"] = log.plan.rows / seconds
    with TemporaryDirectory() as folder:
        for format_ in ("csv", "jsonl", "parquet"):
            target = str(Path(folder) / f"log.{format_}")
            seconds = _command_seconds(log, "export", "--format", format_, "--out", target)
            figures[f"export_{format_}_rate"] = log.plan.rows / seconds
    return figures


def _command_seconds(log: BuiltLog, *arguments: str) -> float:
    environ = dict(os.environ) | {
        "VALETKEY_DATABASE_URL": log.url,
        "PYTHONPATH": str(_CHECKOUT),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "worker", "audit", *arguments]
    start = perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    seconds = perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"audit {arguments[0]} ended with {done.returncode}: {done.stderr}")
    return seconds


def _percentiles(name: str, times: list[float]) -> Figures:
    ordered = sorted(times)
    return {
        f"{name}_p50_ms": ordered[len(ordered) // 2],
        f"{name}_p95_ms": ordered[int(len(ordered) * 0.95)],
    }
