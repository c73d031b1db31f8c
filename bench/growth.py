"""Whether a batch takes longer beside ten million audit rows than beside none."""

from statistics import median

from sqlalchemy import text

from bench import batches, service
from bench.figures import Measured
from worker.db.engine import create_database_engine
from worker.devstack.stack import Stack

ROUNDS = 7
_ROWS, _BATCHES = 10_000_000, 10
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
    " SELECT i FROM n)",
    "postgresql": "(SELECT generate_series(0, {last}) AS i)",
}
_BATCH = (
    "INSERT INTO batches (id, tenant, bucket, kind, requested_by, terms, total, chunk_size,"
    " fingerprint, decided_at) SELECT :id, tenant, bucket, kind, requested_by, terms, :total, 500,"
    " fingerprint, decided_at FROM batches ORDER BY number LIMIT 1 RETURNING number"
)
_CHUNKS = (
    "INSERT INTO chunks SELECT :batch, i, fingerprint, 500, 0, issued_at, expires_in, limited_by,"
    " access_key, refusal, key FROM {numbers} AS n,"
    " (SELECT * FROM chunks ORDER BY batch, number LIMIT 1) AS one"
)
_GRANTS = (
    "INSERT INTO grants SELECT :batch, i, '2026/11/u-' || i || '.pdf', code, detail, digest"
    " FROM {numbers} AS n, (SELECT * FROM grants ORDER BY batch, number LIMIT 1) AS one"
)


def measure() -> Measured:
    """On SQLite, then on PostgreSQL."""
    with service.running() as up:
        sqlite = _growth(up)
    with service.postgres() as url, service.running(url) as up:
        postgres = _growth(up)
    return {"batch_growth_sqlite": sqlite, "batch_growth_postgres": postgres}


def _growth(up: Stack) -> float:
    with service.client(up) as client:
        batches.ask(client)
        service.settle(up)
        before = median(batches.ask(client).last for _ in range(ROUNDS))
        _fill(up)
        service.settle(up)
        batches.ask(client)
        after = median(batches.ask(client).last for _ in range(ROUNDS))
    return before / after


def _fill(up: Stack) -> None:
    engine = create_database_engine(up.running.database_url)
    each = _ROWS // _BATCHES
    numbers = _NUMBERS[engine.dialect.name]
    for batch in range(_BATCHES):
        with engine.begin() as connection:
            one = {"id": f"0199a000-0000-7000-8000-{batch:012}", "total": each}
            number = connection.execute(text(_BATCH), one).scalar_one()
            for statement, last in ((_CHUNKS, each // 500 - 1), (_GRANTS, each - 1)):
                filled = statement.format(numbers=numbers.format(last=last))
                connection.execute(text(filled), {"batch": number})
    engine.dispose()
