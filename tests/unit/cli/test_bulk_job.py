import io
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valetkey.cli.bulk.bulk_job import BatchSlice, BulkJob, batch_slices, plan_batches
from valetkey.cli.bulk.columns import columns_for
from valetkey.cli.bulk.input_scan import MAX_EXPIRY_GROUPS, InputScan, scan_input
from valetkey.cli.bulk.journal import BatchPlan, Checkpoint
from valetkey.cli.bulk.rows import Format
from valetkey.handles import BatchHandle
from valetkey.wire.messages import Grant, Item
from valetkey.wire.refusals import Code, QuotaState, Refusal

WHOLE = Refusal(code=Code.QUOTA_EXCEEDED, field="total", message="over quota")
QUOTA = QuotaState(metric="grants", window="day", limit=9, used=3)
ROWS = st.lists(st.sampled_from(["", "60", "1m", "3600", "bad"]), max_size=40)


class Batch:
    """Grants everything: its id says which batch and which item, its life whose it was."""

    def __init__(self, part: BatchSlice, refusal: Refusal | None = None) -> None:
        self.refusal = refusal
        self.quotas = [QUOTA]
        self.asked = part
        self.keys = [item.key if isinstance(item, Item) else item for item in part.items]
        assert len(self.keys) == part.total - part.first_chunk * part.chunk_size

    def results(self, _timeout: float) -> Iterator[Grant | Refusal]:
        first = self.asked.first_chunk * self.asked.chunk_size
        for number, key in enumerate(self.keys, first):
            yield self.refusal or self._grant(number, key)

    def _grant(self, number: int, key: str) -> Grant:
        batch, life = self.asked.batch, self.asked.expires_in
        end = datetime(2026, 1, 1, tzinfo=UTC)
        return Grant(
            id=f"{batch}.{number}",
            key=key,
            method="GET",
            url=str(life),
            expires_at=end,
            limited_by="request",
        )


def written(lives: list[str]) -> io.BytesIO:
    rows = (f"k{n},{life}" for n, life in enumerate(lives))
    return io.BytesIO("\n".join(["key,expires_in", *rows, ""]).encode())


def ids() -> Any:
    numbers = count()
    return lambda: f"b{next(numbers)}"


def ask(part: BatchSlice) -> BatchHandle:
    return cast("BatchHandle", Batch(part))


def run(survey: InputScan, plan: BatchPlan, done: int = 0) -> list[Any]:
    job = BulkJob(survey, plan, ask)
    answers = list(job.results(1.0, Checkpoint(rows=done)))
    assert job.total == done + len(answers)
    return [
        (answer.key, answer.id, answer.url) if isinstance(answer, Grant) else answer.field
        for answer in answers
    ]


@settings(max_examples=50)
@given(ROWS, st.integers(1, 7), st.integers(1, 5))
def test_every_row_has_its_answer_in_the_order_of_the_input(
    lives: list[str], batch_size: int, chunk_size: int
) -> None:
    with scan_input(written(lives), "csv", columns_for("download")) as survey:
        plan = plan_batches(survey, batch_size, ids())._replace(chunk_size=chunk_size)
        answers = run(survey, plan)
    seconds = {"": "None", "60": "60", "1m": "60", "3600": "3600"}
    for number, (life, answer) in enumerate(zip(lives, answers, strict=True)):
        if life == "bad":
            assert answer == f"rows[{number + 2}].expires_in"
        else:
            assert (answer[0], answer[2]) == (f"k{number}", seconds[life])
    granted = [answer[1] for answer in answers if isinstance(answer, tuple)]
    assert len(set(granted)) == len(granted)


@settings(max_examples=50)
@given(ROWS, st.integers(1, 7), st.integers(1, 5), st.data())
def test_what_is_gone_on_with_is_the_rest_of_the_same(
    lives: list[str], batch_size: int, chunk_size: int, data: st.DataObject
) -> None:
    done = data.draw(st.integers(0, len(lives)))
    with scan_input(written(lives), "csv", columns_for("download")) as survey:
        plan = plan_batches(survey, batch_size, ids())._replace(chunk_size=chunk_size)
        assert run(survey, plan, done) == run(survey, plan)[done:]


def test_only_chunks_that_are_not_whole_are_asked_for_again() -> None:
    asked: list[BatchSlice] = []

    def noting(part: BatchSlice) -> BatchHandle:
        asked.append(part)
        return ask(part)

    with scan_input(written([""] * 20), "csv", columns_for("download")) as survey:
        plan = plan_batches(survey, 8, ids())._replace(chunk_size=3)
        list(BulkJob(survey, plan, noting).results(1.0, Checkpoint(rows=13)))
    assert [(part.batch, part.total, part.first_chunk) for part in asked] == [
        ("b1", 8, 1),
        ("b2", 4, 0),
    ]


def test_a_batch_is_asked_for_when_the_one_before_it_is_read() -> None:
    asked: list[str] = []

    def noting(part: BatchSlice) -> BatchHandle:
        asked.append(part.batch)
        return ask(part)

    with scan_input(written([""] * 20), "csv", columns_for("download")) as survey:
        answers = BulkJob(survey, plan_batches(survey, 8, ids()), noting).results(1.0, Checkpoint())
        list(islice(answers, 8))
        assert asked == ["b0"]


@pytest.mark.parametrize(("lives", "chunk_size"), [(1, 600), (2, 300), (MAX_EXPIRY_GROUPS, 100)])
def test_the_more_lives_there_are_the_smaller_are_the_chunks(lives: int, chunk_size: int) -> None:
    rows = [str(life) for life in range(1, lives + 1)]
    with scan_input(written(rows), "csv", columns_for("download")) as survey:
        assert plan_batches(survey, 10, ids()).chunk_size == chunk_size


def test_a_job_says_what_was_refused_as_a_whole_and_how_quotas_stand() -> None:
    def refusing(part: BatchSlice) -> BatchHandle:
        return cast("BatchHandle", Batch(part, WHOLE if part.batch == "b1" else None))

    with scan_input(written(["", "", "", "bad"]), "csv", columns_for("download")) as survey:
        job = BulkJob(survey, plan_batches(survey, 2, ids()), refusing)
        list(job.results(1.0, Checkpoint(refused=0)))
    assert (job.refused, job.refusals, job.quotas) == (2, [WHOLE], [QUOTA])


@pytest.mark.parametrize(
    ("content", "form", "row"),
    [
        (b"key\na\n\nb\nc\n", "csv", 4),
        (b"a\n\nb\nc\n", "lines", 3),
        (b'{"key": "a"}\n\n{"key": "b"}\n{"key": "c"}\n', "jsonl", 3),
    ],
)
def test_what_the_service_refuses_is_said_of_its_row(
    content: bytes, form: Format, row: int
) -> None:
    refusal = Refusal(code=Code.KEY_INVALID, field="items[0].key", message="m", key="b")

    class Refusing(Batch):
        def _grant(self, number: int, key: str) -> Any:
            return refusal if key == "b" else super()._grant(number, key)

    with scan_input(io.BytesIO(content), form, columns_for("download")) as survey:
        job = BulkJob(
            survey, plan_batches(survey, 1, ids()), lambda part: cast("BatchHandle", Refusing(part))
        )
        answers = list(job.results(1.0, Checkpoint(rows=1)))
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert [(one.field, one.key) for one in refused][-1] == (f"rows[{row}].key", "b")
    assert job.refused == len(refused) == 2


def test_quotas_are_those_of_the_newest_batch_whatever_its_life() -> None:
    def counting(part: BatchSlice) -> BatchHandle:
        batch = Batch(part)
        batch.quotas = [QUOTA.model_copy(update={"used": int(part.batch.removeprefix("b"))})]
        return cast("BatchHandle", batch)

    with scan_input(written(["", "60", "", "60", ""]), "csv", columns_for("download")) as survey:
        job = BulkJob(survey, plan_batches(survey, 1, ids()), counting)
        for _ in islice(job.results(1.0, Checkpoint()), 5):
            pass
    assert [quota.used for quota in job.quotas] == [2]  # the third of the first life, asked last


def test_batches_that_are_refused_for_the_same_reason_have_it_once() -> None:
    with scan_input(written([""] * 9), "csv", columns_for("download")) as survey:
        plan = plan_batches(survey, 2, ids())
        job = BulkJob(survey, plan, lambda part: cast("BatchHandle", Batch(part, WHOLE)))
        list(job.results(1.0, Checkpoint()))
    assert (job.refused, job.refusals) == (9, [WHOLE])


def test_a_part_says_how_large_the_largest_item_is() -> None:
    content = io.BytesIO(b"key,size\na,5\nb,9\n")
    with scan_input(content, "csv", columns_for("put")) as survey:
        part = next(batch_slices(survey, plan_batches(survey, 1, ids()), 0))
        assert (part.total, part.largest, list(part.items)) == (1, 9, [Item(key="a", size=5)])
