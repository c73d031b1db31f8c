"""A generated audit log, and the figures of reports on it, counted one item at a time."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tests.support.builders.audit_rows import MORNING, AuditedBatch
from worker.audit.text_conditions import ERASED

HOSTILE = "</script><img src=x onerror=\"alert('1')\">{0}&amp;"
RIGHT_TO_LEFT = "مستأجر/تقرير 2026.pdf"
LONG = "ключ/" * 100
SINCE, UNTIL = MORNING - timedelta(days=20), MORNING


class LoggedItem(NamedTuple):
    """One item, with what its batch and chunk say about it."""

    time: datetime
    tenant: str
    bucket: str
    kind: str
    requester: str
    recipient: str | None
    key: str
    code: str | None
    expires_in: int
    limited_by: str


@dataclass(frozen=True)
class ReportLog:
    """Batches of several tenants, some of them outside of the report's range."""

    batches: list[AuditedBatch]

    def write(self, connection: Connection) -> None:
        for batch in self.batches:
            batch.write(connection)

    def items(self, tenant: str | None = None) -> Iterator[LoggedItem]:
        """Yield the items in the range, one after the other."""
        for batch in self.batches:
            for number, key in enumerate(batch.object_keys):
                time = batch.decided_at + timedelta(seconds=number // batch.chunk_size)
                if SINCE <= time < UNTIL and tenant in {None, batch.tenant}:
                    names = (
                        batch.tenant,
                        batch.bucket,
                        batch.kind,
                        batch.requested_by,
                        batch.text("recipient", number),
                    )
                    code = batch.codes.get(number)
                    yield LoggedItem(time, *names, key, code, batch.expires_in, batch.limited_by)

    def count(
        self, group: Callable[[LoggedItem], str | None], tenant: str | None = None
    ) -> dict[str, list[int]]:
        """Count issued and refused items by group, without those whose group is None."""
        issued: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        for item in self.items(tenant):
            name = group(item)
            if name is not None:
                (refused if item.code else issued)[name] += 1
        return {name: [issued[name], refused[name]] for name in issued | refused}


def build_log(batches: int = 150, seed: int = 13) -> ReportLog:
    """Return a log that is the same for the same seed."""
    random = Random(seed)
    return ReportLog([_build_batch(random, number) for number in range(1, batches + 1)])


def _build_batch(random: Random, number: int) -> AuditedBatch:
    keys: list[str] = [f"acme/{name}.pdf" for name in range(40)]
    keys += [HOSTILE, RIGHT_TO_LEFT, LONG]
    size = random.randint(1, 7)
    codes = {item: random.choice(["key_traversal", "quota_exceeded"]) for item in range(size)}
    fields: dict[str, Any] = {
        "tenant": random.choice(["acme", "acme", "globex", "initech"]),
        "bucket": random.choice(["reports", "uploads"]),
        "kind": random.choice(["download", "upload", "put"]),
        "requested_by": random.choice(["billing", "nightly", HOSTILE, RIGHT_TO_LEFT]),
        "recipient": random.choice([None, "auditor", RIGHT_TO_LEFT]),
        "expires_in": random.choice([30, 60, 61, 900, 86_400, 700_000]),
        "limited_by": random.choice(["request", "policy"]),
    }
    own = {item: random.choice(["ann", "bob", HOSTILE, ERASED]) for item in range(size)}
    return AuditedBatch(
        number,
        [random.choice(keys) for _ in range(size)],
        {item: code for item, code in codes.items() if random.random() < 0.25},
        decided_at=MORNING - timedelta(hours=random.uniform(-24, 24 * 21)),
        texts={item: {"recipient": own[item]} for item in own if random.random() < 0.3},
        **fields,
    )
