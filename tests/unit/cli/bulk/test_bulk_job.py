import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from itertools import count, islice
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valetkey.cli.bulk.bulk_job import BatchRequest, BulkJob, plan_batches
from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.input_scan import INVALID_ROW, MAX_EXPIRY_GROUPS, InputScan, scan_input
from valetkey.cli.journal import BulkPlan, Checkpoint, FinishedRow
from valetkey.handles import BatchHandle
from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import Grant
from valetkey.wire.terms import Kind

BATCH_REFUSAL = Refusal(code=Code.QUOTA_EXCEEDED, field="total", message="over quota")
QUOTA = QuotaState(metric="grants", window="day", limit=9, used=3)
ROWS = st.lists(st.sampled_from(["", "60", "1m", "3600", "invalid"]), max_size=40)


class Batch:
    """A batch that grants all items: a grant's id names batch and item, its URL the expires_in."""

    def __init__(self, batch_slice: BatchRequest, refusal: Refusal | None = None) -> None:
        self.refusal = refusal
        self.quotas = [QUOTA]
        self.slice = batch_slice
        self.keys = [i.key if isinstance(i, Item) else i for i in batch_slice.items]
        first = batch_slice.first_chunk * batch_slice.chunk_size
        assert len(self.keys) == batch_slice.total - first

    def results(self, _timeout: float) -> Iterator[Grant | Refusal]:
        first = self.slice.first_chunk * self.slice.chunk_size
        for number, key in enumerate(self.keys, first):
            yield self.refusal or self._grant(number, key)

    def _grant(self, number: int, key: str) -> Grant:
        return Grant(
            id=f"{self.slice.batch_id}.{number}",
            key=key,
            method="GET",
            url=str(self.slice.expires_in),
            expires_at=datetime(2026, 1, 1, tzinfo=UTC),
            limited_by="request",
        )


def scan_expiries(expiries: list[str]) -> AbstractContextManager[InputScan]:
    rows = (f"k{n},{expiry}" for n, expiry in enumerate(expiries))
    return scan_csv("\n".join(["key,expires_in", *rows, ""]).encode())


def scan_csv(content: bytes, kind: Kind = "download") -> AbstractContextManager[InputScan]:
    return scan_input(io.BytesIO(content), "csv", columns_for(kind))


def id_generator() -> Any:
    numbers = count()
    return lambda: f"b{next(numbers)}"


def request_batch(batch_slice: BatchRequest) -> BatchHandle:
    return cast("BatchHandle", Batch(batch_slice))


def recording(requested: list[BatchRequest]) -> Callable[[BatchRequest], BatchHandle]:
    def record(batch_slice: BatchRequest) -> BatchHandle:
        requested.append(batch_slice)
        return request_batch(batch_slice)

    return record


def run_job(scan: InputScan, plan: BulkPlan, rows_done: int = 0) -> list[Any]:
    job = BulkJob(scan, plan, request_batch)
    results = list(job.results(1.0, Checkpoint(rows=rows_done)))
    assert job.total == rows_done + len(results)
    assert not any(isinstance(result, FinishedRow) for result in results)
    return [
        (result.key, result.id, result.url)
        if isinstance(result, Grant)
        else getattr(result, "field", None)
        for result in results
    ]


@settings(max_examples=50)
@given(ROWS, st.integers(1, 7), st.integers(1, 5))
def test_every_row_has_its_result_in_the_order_of_the_input(
    expiries: list[str], batch_size: int, chunk_size: int
) -> None:
    with scan_expiries(expiries) as scan:
        plan = plan_batches(scan, batch_size, id_generator())._replace(chunk_size=chunk_size)
        results = run_job(scan, plan)
    seconds = {"": "None", "60": "60", "1m": "60", "3600": "3600"}
    for number, (expiry, result) in enumerate(zip(expiries, results, strict=True)):
        if expiry == "invalid":
            assert result == f"rows[{number + 2}].expires_in"
        else:
            assert (result[0], result[2]) == (f"k{number}", seconds[expiry])
    ids = [result[1] for result in results if isinstance(result, tuple)]
    assert len(set(ids)) == len(ids)


@settings(max_examples=50)
@given(ROWS, st.integers(1, 7), st.integers(1, 5), st.data())
def test_a_resumed_job_yields_the_remaining_results(
    expiries: list[str], batch_size: int, chunk_size: int, data: st.DataObject
) -> None:
    rows_done = data.draw(st.integers(0, len(expiries)))
    with scan_expiries(expiries) as scan:
        plan = plan_batches(scan, batch_size, id_generator())._replace(chunk_size=chunk_size)
        assert run_job(scan, plan, rows_done) == run_job(scan, plan)[rows_done:]


def test_only_incomplete_chunks_are_requested_again() -> None:
    requested: list[BatchRequest] = []
    with scan_expiries([""] * 20) as scan:
        plan = plan_batches(scan, 8, id_generator())._replace(chunk_size=3)
        list(BulkJob(scan, plan, recording(requested)).results(1.0, Checkpoint(rows=13)))
    assert [(part.batch_id, part.total, part.first_chunk) for part in requested] == [
        ("b1", 8, 1),
        ("b2", 4, 0),
    ]


def test_a_batch_is_requested_after_the_previous_one_is_read() -> None:
    requested: list[BatchRequest] = []
    with scan_expiries([""] * 20) as scan:
        job = BulkJob(scan, plan_batches(scan, 8, id_generator()), recording(requested))
        list(islice(job.results(1.0, Checkpoint()), 8))
        assert [part.batch_id for part in requested] == ["b0"]


@pytest.mark.parametrize(("groups", "chunk_size"), [(1, 600), (2, 300), (MAX_EXPIRY_GROUPS, 100)])
def test_chunks_get_smaller_with_more_expiry_groups(groups: int, chunk_size: int) -> None:
    expiries = [str(seconds) for seconds in range(1, groups + 1)]
    with scan_expiries(expiries) as scan:
        assert plan_batches(scan, 10, id_generator()).chunk_size == chunk_size


def test_a_job_lists_refusals_of_batches_and_the_quotas() -> None:
    def refuse_second(batch_slice: BatchRequest) -> BatchHandle:
        refusal = BATCH_REFUSAL if batch_slice.batch_id == "b1" else None
        return cast("BatchHandle", Batch(batch_slice, refusal))

    with scan_expiries(["", "", "", "invalid"]) as scan:
        job = BulkJob(scan, plan_batches(scan, 2, id_generator()), refuse_second)
        list(job.results(1.0, Checkpoint(refused=0)))
    assert (job.refused, job.refusals, job.quotas) == (2, [BATCH_REFUSAL], [QUOTA])


def test_a_refusal_of_the_service_names_the_row() -> None:
    refusal = Refusal(code=Code.KEY_INVALID, field="items[0].key", message="m", key="b")

    class RefusingBatch(Batch):
        def _grant(self, number: int, key: str) -> Any:
            return refusal if key == "b" else super()._grant(number, key)

    with scan_csv(b"key\na\n\nb\nc\n") as scan:
        job = BulkJob(
            scan,
            plan_batches(scan, 1, id_generator()),
            lambda batch_slice: cast("BatchHandle", RefusingBatch(batch_slice)),
        )
        results = list(job.results(1.0, Checkpoint(rows=1)))
    refusals = [result for result in results if isinstance(result, Refusal)]
    assert (refusals[-1].field, refusals[-1].key) == ("rows[4].key", "b")
    assert job.refused == len(refusals) == 2


def test_quotas_are_those_of_the_newest_batch_of_any_expiry_group() -> None:
    def number_quota(batch_slice: BatchRequest) -> BatchHandle:
        batch = Batch(batch_slice)
        number = int(batch_slice.batch_id.removeprefix("b"))
        batch.quotas = [QUOTA.model_copy(update={"used": number})]
        return cast("BatchHandle", batch)

    with scan_expiries(["", "60", "", "60", ""]) as scan:
        job = BulkJob(scan, plan_batches(scan, 1, id_generator()), number_quota)
        for _ in islice(job.results(1.0, Checkpoint()), 5):
            pass
    # The last one requested is the third batch of the first group.
    assert [quota.used for quota in job.quotas] == [2]


def test_versions_of_a_key_are_different_objects() -> None:
    with scan_csv(b"key,version_id\na,1\na,2\na,\na,2\n") as scan:
        assert list(scan.row_groups) == [0, 0, 0, INVALID_ROW]
        message = "it repeats the object of line 3: name each object once for each recipient"
        assert scan.first_invalid_rows[0].message == message
        assert next(scan.groups[0].items.read(1)) == {"key": "a", "version_id": "2"}


def test_the_number_of_expiry_groups_is_limited() -> None:
    rows = b"".join(b"k%d,%d\n" % (n, n) for n in range(1, MAX_EXPIRY_GROUPS + 3))
    with scan_csv(b"key,expires_in\n" + rows + b"z,1\n") as scan:
        assert list(scan.row_groups) == [*range(MAX_EXPIRY_GROUPS), INVALID_ROW, INVALID_ROW, 0]
        assert scan.first_invalid_rows[0].field == f"rows[{MAX_EXPIRY_GROUPS + 2}].expires_in"


def test_an_expiry_group_has_its_largest_size() -> None:
    content = b"key,size,expires_in\na,5,\nb,7,\nc,9,60\n"
    with scan_csv(content, "put") as scan:
        assert [group.largest_size for group in scan.groups] == [7, 9]
