"""The time of a batch with 10 million audit rows in the database, compared with none."""

from statistics import median

from sqlalchemy import text

from bench import batches, service
from bench.metrics import Measurements
from worker.base.database_engine import create_database_engine
from worker.dev.stack import Stack

ROUNDS = 7
_ROWS, _BATCHES = 10_000_000, 10
_CHUNK_ITEMS = 500  # as in the statements below
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
    " SELECT i FROM n)",
    "postgresql": "(SELECT generate_series(0, {last}) AS i)",
}
_INSERT_BATCH = (
    "INSERT INTO batches (batch_id, tenant, bucket, kind, requested_by, terms, total, chunk_size,"
    " fingerprint, decided_at) SELECT :id, tenant, bucket, kind, requested_by, terms, :total, 500,"
    " fingerprint, decided_at FROM batches ORDER BY batch_number LIMIT 1 RETURNING batch_number"
)
_INSERT_CHUNKS = (
    "INSERT INTO chunks SELECT :batch, i, fingerprint, 500, 0, issued_at, expires_in, limited_by,"
    " access_key, refusal, signing_key FROM {numbers} AS n,"
    " (SELECT * FROM chunks ORDER BY batch_number, chunk_number LIMIT 1) AS template"
)
_INSERT_GRANTS = (
    "INSERT INTO grants SELECT :batch, i, '2026/11/u-' || i || '.pdf', code, detail, digest"
    " FROM {numbers} AS n,"
    " (SELECT * FROM grants ORDER BY batch_number, item_number LIMIT 1) AS template"
)


def measure() -> Measurements:
    """Measure on SQLite, then on PostgreSQL."""
    with service.running_service() as stack:
        sqlite = _measure_growth(stack)
    with service.durable_postgres() as url, service.running_service(url) as stack:
        postgres = _measure_growth(stack)
    return {"batch_growth_sqlite": sqlite, "batch_growth_postgres": postgres}


def _measure_growth(stack: Stack) -> float:
    with service.signing_client(stack) as client:
        batches.request_batch(client)
        service.analyze_tables(stack)
        before = median(batches.request_batch(client).last for _ in range(ROUNDS))
        _insert_rows(stack)
        service.analyze_tables(stack)
        batches.request_batch(client)
        after = median(batches.request_batch(client).last for _ in range(ROUNDS))
    return before / after


def _insert_rows(stack: Stack) -> None:
    engine = create_database_engine(stack.info.database_url)
    rows = _ROWS // _BATCHES
    numbers = _NUMBERS[engine.dialect.name]
    for batch in range(_BATCHES):
        with engine.begin() as connection:
            parameters = {"id": f"0199a000-0000-7000-8000-{batch:012}", "total": rows}
            number = connection.execute(text(_INSERT_BATCH), parameters).scalar_one()
            for statement, count in (
                (_INSERT_CHUNKS, rows // _CHUNK_ITEMS),
                (_INSERT_GRANTS, rows),
            ):
                query = statement.format(numbers=numbers.format(last=count - 1))
                connection.execute(text(query), {"batch": number})
    engine.dispose()
