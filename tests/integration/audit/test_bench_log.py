"""The log of the benchmark is written past the service: it has what the service would write."""

from collections import defaultdict

import pytest
from sqlalchemy import func, select

from bench.audit import writer
from bench.audit.build import build_log
from bench.audit.data import DataPlan, generate_batches
from models import Grant, KeySegment, RefusedChunk, TreeHead, UnindexedChunk
from worker.audit.audit_rows import read_grants
from worker.audit.grant_filters import GrantFilter
from worker.audit.key_lookup import MIN_CHUNKS
from worker.base.database_engine import create_database_engine, read_transaction
from worker.proof.verify.verification import VerifyOptions, verify_log

PLAN = DataPlan(3_000)


def test_the_log_of_a_plan_has_all_of_its_rows_trees_and_keys(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_NEWEST_ROWS", 1_000)
    monkeypatch.setattr(writer, "_ROWS_PER_TRANSACTION", 500)
    build_log(database_url, PLAN)
    chunks = [(batch.values, chunk) for batch in generate_batches(PLAN) for chunk in batch.chunks]
    grants = defaultdict(list)
    for values, chunk in chunks:
        for row in chunk.rows:
            grants[row.object_key].append(f"{values['batch_id']}.{row.item_number}")
    engine = create_database_engine(database_url)
    with read_transaction(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(Grant)) == PLAN.rows
        assert (
            connection.scalar(select(func.sum(TreeHead.size))) == len(chunks) + 1
        )  # of the config
        refused = sum(chunk.values["refused"] > 0 for _, chunk in chunks)
        assert connection.scalar(select(func.count()).select_from(RefusedChunk)) == refused
        largest = connection.scalar(select(func.max(KeySegment.entries)))
        assert largest is not None
        assert largest > PLAN.rows / 3
        unindexed = connection.scalar(select(func.count()).select_from(UnindexedChunk))
        assert unindexed is not None
        assert unindexed < MIN_CHUNKS
        for key in sorted(grants, key=lambda key: -len(grants[key]))[:3]:
            page = read_grants(connection, GrantFilter(object_key=key), PLAN.rows)
            assert [record.grant for record in page.records] == grants[key][::-1]
    engine.dispose()
    assert verify_log(database_url, VerifyOptions()).is_sound
