"""Compares what producers were told with the rows and the charges of the database."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import Connection, Engine, Integer, Select, case, cast, func, select

import valetkey
from models import Batch, Grant, Reservation, Usage
from tests.support.quota_model.model import METRICS, NO_COST, WINDOWS, ModelCost, window_start
from worker.base.database_engine import read_transaction

ItemId = tuple[str, int]
"""A batch id and the number of an item in that batch."""


class ToldResult(NamedTuple):
    """A result as a producer was told it: a grant's id and signature digest, or a refusal code."""

    key: str
    grant_id: str | None = None
    digest: bytes | None = None
    code: str | None = None


@dataclass
class Record:
    """Requests and results of all producers of one run.

    asked has the object key of each requested item, told the results of each item. calls counts the
    completed calls of each producer; slowest is the longest of them, in seconds.
    """

    asked: dict[ItemId, str] = field(default_factory=dict)
    told: defaultdict[ItemId, list[ToldResult]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def ask(self, batch_id: str, keys: Sequence[str]) -> None:
        with self._lock:
            self.asked |= {(batch_id, number): key for number, key in enumerate(keys)}

    def tell(self, item: ItemId, result: valetkey.Grant | valetkey.Refusal, key: str) -> None:
        """Note a result of an item; key is that of the item, which a refusal need not name."""
        if isinstance(result, valetkey.Refusal):
            told = ToldResult(result.key or key, code=str(result.code))
        else:
            told = told_grant({"id": result.id, "key": result.key, "url": result.url})
        self.tell_result(item, told)

    def tell_result(self, item: ItemId, result: ToldResult) -> None:
        with self._lock:
            self.told[item].append(result)

    def complete_call(self, producer: str, seconds: float) -> None:
        with self._lock:
            self.calls[producer] = self.calls.get(producer, 0) + 1
            self.slowest = max(self.slowest, seconds)

    def fail(self, producer: str, error: Exception) -> None:
        with self._lock:
            self.errors.append(f"{producer}: {error!r}")

    @property
    def answered(self) -> int:
        return len(self.told)


def told_grant(grant: Mapping[str, str]) -> ToldResult:
    """Return a grant, given as the JSON values of a reply, as it is noted."""
    signature = parse_qs(urlsplit(grant["url"]).query)["X-Amz-Signature"][0]
    return ToldResult(grant["key"], grant["id"], sha256(signature.encode()).digest())


_REST = -1  # the chunk number of the reservation for chunks that have not arrived


@dataclass(frozen=True)
class Findings:
    """Everything that does not agree, as one line per item, key or charge.

    lost: items that were requested and got no result. doubled: object keys that were granted, or
    items that were told, twice and differently. unaudited: results that differ from their audit
    row, or have none. mischarged: charges that differ from the sum over the rows.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unaudited: list[str] = field(default_factory=list)
    mischarged: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self != Findings()


class _AuditRow(NamedTuple):
    key: str
    code: str | None
    digest: bytes | None


@dataclass(frozen=True)
class AuditLog:
    """The rows of all items in a database, and the codes of the batches that were refused whole."""

    rows: Mapping[ItemId, _AuditRow]
    refusals: Mapping[str, str]


def read_log(engine: Engine) -> AuditLog:
    with read_transaction(engine) as connection:
        return AuditLog(_audit_rows(connection), _batch_refusals(connection))


def compare(record: Record, engine: Engine) -> Findings:
    """Compare a record with the whole database, to which nobody else may have written."""
    log = read_log(engine)
    with read_transaction(engine) as connection:
        mischarged = [*_usage_differences(connection), *_reservation_differences(connection)]
    return Findings(
        lost=[f"{item}: {key}" for item, key in record.asked.items() if item not in record.told],
        doubled=[*_granted_twice(log.rows), *_told_twice(record)],
        unaudited=[f"{item}: {what}" for item, what in unaudited_results(record, log)],
        mischarged=mischarged,
    )


def _audit_rows(connection: Connection) -> dict[ItemId, _AuditRow]:
    grant = (Grant.item_number, Grant.object_key, Grant.code, Grant.digest)
    query = select(Batch.batch_id, *grant).join(Grant, Grant.batch_number == Batch.batch_number)
    rows = connection.execute(query).all()
    return {(row[0], row[1]): _AuditRow(*row[2:]) for row in rows}


def _batch_refusals(connection: Connection) -> dict[str, str]:
    query = select(Batch.batch_id, Batch.refusal).where(Batch.refusal.is_not(None))
    return {batch: refusal["code"] for batch, refusal in connection.execute(query)}


def _granted_twice(rows: Mapping[ItemId, _AuditRow]) -> Iterator[str]:
    counts = Counter(row.key for row in rows.values() if row.code is None)
    return (f"{key}: {count} grants" for key, count in counts.items() if count > 1)


def _told_twice(record: Record) -> Iterator[str]:
    for item, results in record.told.items():
        if len(set(results)) > 1:
            yield f"{item}: {len(set(results))} different results"


def unaudited_results(record: Record, log: AuditLog) -> Iterator[tuple[ItemId, str]]:
    """Yield each item that was told a result which is not that of its row, and both as text."""
    for item, results in record.told.items():
        row = log.rows.get(item)
        for result in results:
            if row is None:  # no chunk is sent once the batch is refused, so none is recorded
                is_audited = result.code is not None and log.refusals.get(item[0]) == result.code
            else:
                is_id_right = result.code is not None or result.grant_id == f"{item[0]}.{item[1]}"
                is_audited = is_id_right and (result.key, result.code, result.digest) == row
            if not is_audited:
                yield item, f"told {result}, recorded {row}"


def _usage_differences(connection: Connection) -> Iterator[str]:
    expected: defaultdict[tuple[str, str, datetime], ModelCost] = defaultdict(lambda: NO_COST)
    for tenant, charged_at, cost in _charges(connection):
        for window in WINDOWS:
            charge = (tenant, window, window_start(window, charged_at))
            expected[charge] = _add(expected[charge], cost)
    query = select(Usage.tenant, Usage.window, Usage.window_start, *_columns(Usage))
    actual = {(row[0], row[1], row[2]): _cost(row[3:]) for row in connection.execute(query)}
    for key in expected.keys() | actual.keys():
        charged, due = actual.get(key, NO_COST), expected.get(key, NO_COST)
        if charged != due:
            yield f"{key}: charged {charged}, the rows cost {due}"


def _charges(connection: Connection) -> Iterator[tuple[str, datetime, ModelCost]]:
    """Yield what each batch should have been charged: its grants, and what it still reserves."""
    rest = select(Reservation.tenant, Reservation.charged_at, *_columns(Reservation)).where(
        Reservation.chunk_number == _REST
    )
    for query in (_granted(Batch.tenant, Batch.decided_at), rest):
        for tenant, charged_at, *cost in connection.execute(query):
            yield tenant, charged_at, _cost(cost)


def _granted(*columns: Any) -> Select[Any]:
    """Return a query for columns of each batch, and what its grants cost."""
    size = cast(Grant.detail["size"].as_string(), Integer)
    downloads = func.sum(case((Batch.kind == "download", 1), else_=0))
    uploads = func.sum(case((Batch.kind == "put", size), else_=0))
    return (
        select(*columns, func.count(), downloads, uploads)
        .join(Grant, Grant.batch_number == Batch.batch_number)
        .where(Grant.code.is_(None))
        .group_by(Batch.batch_number)
    )


def _reservation_differences(connection: Connection) -> Iterator[str]:
    """Compare the reservations of each batch with its grants, which must all be live."""
    reserved = (
        select(Reservation.batch_number, *(func.sum(column) for column in _columns(Reservation)))
        .where(Reservation.chunk_number != _REST)
        .group_by(Reservation.batch_number)
    )
    granted = connection.execute(_granted(Batch.batch_number))
    expected = {number: _cost(cost) for number, *cost in granted}
    actual = {number: _cost(cost) for number, *cost in connection.execute(reserved)}
    for number in expected.keys() | actual.keys():
        held, due = actual.get(number, NO_COST), expected.get(number, NO_COST)
        if held != due:
            yield f"batch {number}: reserved {held}, its grants cost {due}"


def _columns(table: Any) -> list[Any]:
    return [getattr(table, name) for name in METRICS]


def _cost(values: Iterable[Any]) -> ModelCost:
    grants, download_grants, upload_bytes = (int(value or 0) for value in values)
    return grants, download_grants, upload_bytes


def _add(left: ModelCost, right: ModelCost) -> ModelCost:
    return left[0] + right[0], left[1] + right[1], left[2] + right[2]


def summarize(findings: Findings, limit: int = 5) -> str:
    """Return the first lines of each kind of finding, as an assertion's message."""
    kinds = {name: lines for name, lines in vars(findings).items() if lines}
    return json.dumps(
        {name: [len(lines), *lines[:limit]] for name, lines in kinds.items()}, indent=1
    )
