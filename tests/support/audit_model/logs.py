"""Generates audit logs, and the same rows as plain Python values."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from tests.support.audit_model.uses import LoggedUses, logged_uses
from tests.support.builders.audit_rows import AuditedBatch, batch_id
from worker.audit.text_conditions import ERASED
from worker.rules.annotations import ANNOTATION_FIELDS

no_shrinking = settings(
    phases=(Phase.explicit, Phase.generate),  # making an example smaller takes minutes of inserts
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
    deadline=None,
)
# The clocks of Berlin go back on October 25, and the month ends at another time in each zone.
MOMENTS = st.sampled_from(
    [
        datetime(2026, 10, 24, 21, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 10, 24, 22, 0, tzinfo=UTC),
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
        datetime(2026, 10, 31, 18, 14, 59, tzinfo=UTC),
        datetime(2026, 10, 31, 18, 15, tzinfo=UTC),
        datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2026, 11, 1, 0, 0, tzinfo=UTC),
    ]
)
KEYS = ["a/1", "a/2", "A/1", "=1+1", "-x", "@y", 'q"uote', "new\nline", "ü/ß", "🗝", "a,b", "%_*"]
CODES = ["key_traversal", "quota_exceeded"]
TEXTS = st.sampled_from(
    ["", "why, not", "-1", "ann@example.org", "Ann@Example.org", "@ü", "@Ü", ERASED]
)
_NAMES: list[str] = [*ANNOTATION_FIELDS]
OWN_TEXTS = st.dictionaries(st.sampled_from(_NAMES), TEXTS)
MAX_SIZE = 5 * 2**40  # of a multipart upload


class LogRow(NamedTuple):
    """One item with everything that a query may ask of it."""

    batch_number: int
    item_number: int
    batch: AuditedBatch
    time: datetime
    key: str
    code: str | None
    used: LoggedUses

    def state(self, now: datetime) -> str | None:
        """Return its state, None if it is refused."""
        return None if self.code else self.used.state(self.batch, self.item_number, now)

    @property
    def grant(self) -> str:
        number = self.batch.number if self.batch.id_number is None else self.batch.id_number
        return f"{batch_id(number)}.{self.item_number}"

    def value(self, name: str) -> Any:
        """Return the value of a column by which counts are grouped."""
        if name == "decision":
            return "issued" if self.code is None else "refused"
        if name in {"key", "code"}:
            return getattr(self, name)
        if name in ANNOTATION_FIELDS:
            return self.batch.text(name, self.item_number)
        return getattr(self.batch, {"requester": "requested_by"}.get(name, name))

    def bytes(self, *, exact: bool) -> int:
        if self.code is not None or self.batch.kind not in {"upload", "put", "multipart"}:
            return 0
        if exact and self.batch.kind != "upload":
            return self.batch.sizes.get(self.item_number, 0)
        return int(self.batch.terms["max_size"])


class GeneratedLog(NamedTuple):
    """A log of several tenants, of which two may have batches of the same id."""

    batches: list[AuditedBatch]
    used: LoggedUses = LoggedUses()

    def write(self, connection: Connection) -> None:
        for batch in self.batches:
            batch.write(connection)
        self.used.write(connection)

    def in_order(self) -> "GeneratedLog":
        """Return the log with its times in the order of its batches, as a range of times needs."""
        times = sorted(batch.decided_at for batch in self.batches)
        pairs = zip(self.batches, times, strict=True)
        return self._replace(batches=[replace(batch, decided_at=time) for batch, time in pairs])

    def rows(self) -> list[LogRow]:
        """Return all items, oldest batch first."""
        return [
            LogRow(
                batch.number,
                number,
                batch,
                batch.decided_at + timedelta(seconds=number // batch.chunk_size),
                key,
                batch.codes.get(number),
                self.used,
            )
            for batch in self.batches
            for number, key in enumerate(batch.object_keys)
        ]


@st.composite
def batches(draw: st.DrawFn, number: int) -> AuditedBatch:
    """Generate a batch. Every third one shares its id with the one before, of another tenant."""
    keys = draw(
        st.lists(st.sampled_from(KEYS) | st.text(min_size=1, max_size=5), min_size=1, max_size=7)
    )
    keys = [key.replace("\0", "0").encode(errors="replace").decode() for key in keys]
    numbers = range(len(keys))
    codes = draw(st.dictionaries(st.sampled_from(numbers), st.sampled_from(CODES)))
    kind = draw(st.sampled_from(["download", "upload", "put", "multipart", "parts"]))
    stores = kind in {"upload", "put", "multipart"}
    is_same_id = number % 3 == 2
    tenant = draw(st.sampled_from(["acme", "globex", "ümlaut"]))
    return AuditedBatch(
        number,
        keys,
        codes,
        decided_at=draw(MOMENTS),
        chunk_size=draw(st.integers(1, 4)),
        tenant=f"same-{number}" if is_same_id else tenant,
        bucket=draw(st.sampled_from(["demo", "other"])),
        kind=kind,
        requested_by=draw(st.sampled_from(["billing", "=cmd()", 'n "b"', "line\nbreak", ERASED])),
        reason=draw(st.none() | TEXTS),
        recipient=draw(st.none() | TEXTS),
        signed_by=draw(st.sampled_from([None, "key-1"])),
        id_number=number - 1 if is_same_id else None,
        terms={"max_size": draw(st.sampled_from([1, 10, MAX_SIZE]))} if stores else {},
        sizes=dict.fromkeys(numbers, draw(st.integers(0, 10))) if stores else {},
        texts=draw(st.dictionaries(st.sampled_from(numbers), OWN_TEXTS)),
    )


@st.composite
def generated_logs(draw: st.DrawFn) -> GeneratedLog:
    """Generate a log, which may be empty."""
    own = [draw(batches(number)) for number in range(1, draw(st.integers(0, 7)) + 1)]
    return GeneratedLog(own, draw(logged_uses(own)))
