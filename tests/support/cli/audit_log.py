"""A small audit log of three batches."""

from datetime import timedelta

from click.testing import Result

from tests.support.builders.audit_rows import MORNING, AuditedBatch, batch_id
from tests.support.cli.operator import json_rows
from tests.support.servers.databases import open_engine
from worker.base.database_engine import write_transaction

LOG = (
    AuditedBatch(1, ["acme/1", "acme/2", "acme/../3", "acme/4", "acme/5"], {2: "key_traversal"}),
    AuditedBatch(
        2,
        ["globex/1", "globex/2"],
        {0: "quota_exceeded", 1: "quota_exceeded"},
        decided_at=MORNING + timedelta(hours=1),
        tenant="globex",
        kind="upload",
        requested_by="nightly",
        reason="statements",
        recipient="auditor",
        signed_by="billing-2026",
    ),
    AuditedBatch(3, ["ACME/1"], decided_at=MORNING + timedelta(hours=2), bucket="other"),
)


def write_batches(database_url: str, *batches: AuditedBatch) -> None:
    with open_engine(database_url) as engine, write_transaction(engine) as connection:
        for batch in batches:
            batch.write(connection)


def grants(result: Result) -> list[str]:
    return [row["grant"] for row in json_rows(result)]


def items(batch: int, *numbers: int) -> list[str]:
    return [f"{batch_id(batch)}.{number}" for number in numbers]


FIRST = items(1, 4, 3, 2, 1, 0)
SECOND = items(2, 1, 0)
ALL = items(3, 0) + SECOND + FIRST
