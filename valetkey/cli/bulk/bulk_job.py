"""Divides a scanned input into batches, and merges their results in the order of the input."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from valetkey.cli.bulk.input_scan import INVALID_ROW, KEPT_ROW, InputScan
from valetkey.cli.journal import BulkPlan, Checkpoint, FinishedRow
from valetkey.cli.result_source import ResultSource
from valetkey.cli.row_errors import RowRefusal, renumber_refusal
from valetkey.handles import BatchHandle
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS, Item
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant

_MIN_CHUNK_ITEMS = 100  # with 16 expiry groups, about 50,000 results may then wait: 80 MB


class BatchRequest(NamedTuple):
    """The arguments of one batch request: its id, its sizes, and its items from first_chunk on.

    total is the size of the whole batch. expires_in is the rows' own, in seconds, if they have one.
    largest_size is the size in bytes of the largest item in the expiry group.
    """

    batch_id: str
    items: Iterator[str | Item]
    total: int
    chunk_size: int
    first_chunk: int
    expires_in: int | None
    largest_size: int


BatchRequester = Callable[[BatchRequest], BatchHandle]


def plan_batches(scan: InputScan, batch_size: int, new_id: Callable[[], str]) -> BulkPlan:
    """Divide each expiry group of an input into batches, in the order of the input.

    All groups have a batch in flight at once. The more groups there are, the smaller the chunks, so
    that the results waiting for their turn take little memory. Small chunks cost time.
    """
    batch_counts = [-(-group.items.count // batch_size) for group in scan.groups]
    batch_ids = [[new_id() for _ in range(count)] for count in batch_counts]
    chunk_size = max(DEFAULT_CHUNK_ITEMS // max(len(batch_counts), 1), _MIN_CHUNK_ITEMS)
    return BulkPlan(batch_ids, batch_size, chunk_size)


def remaining_batches(
    scan: InputScan,
    batch_plan: BulkPlan,
    group_index: int,
    batch_index: int = 0,
    first_chunk: int = 0,
) -> Iterator[BatchRequest]:
    """Yield the batches of one expiry group, starting at a given batch and chunk.

    The items of each slice must be read before the next slice is taken.
    """
    group, (batch_ids, batch_size, chunk_size) = scan.groups[group_index], batch_plan
    first_item = batch_index * batch_size + first_chunk * chunk_size
    group_items = map(_item_from_json, group.items.read(first_item))
    for batch_id in batch_ids[group_index][batch_index:]:
        total = min(batch_size, group.items.count - batch_index * batch_size)
        items = islice(group_items, total - first_chunk * chunk_size)
        yield BatchRequest(
            batch_id, items, total, chunk_size, first_chunk, group.expires_in, group.largest_size
        )
        batch_index, first_chunk = batch_index + 1, 0


class BulkJob(ResultSource):
    """Requests all batches of an input, and merges their results in the order of the rows.

    refused counts all refusals, those of invalid rows included. finished_rows returns the rows of
    a finished output; the scan keeps those that were granted.
    """

    def __init__(
        self,
        scan: InputScan,
        batch_plan: BulkPlan,
        request_batch: BatchRequester,
        finished_rows: Callable[[], Iterator[FinishedRow]] = lambda: iter(()),
    ) -> None:
        super().__init__(len(scan.row_groups))
        self._scan = scan
        self._batch_plan = batch_plan
        self._request_batch = request_batch
        self._finished_rows = finished_rows

    def copied_values(self, checkpoint: Checkpoint) -> Iterator[Mapping[str, Any]]:
        """Yield the values that are copied to the output for each row after the checkpoint."""
        return self._scan.copied.read(checkpoint.rows)

    def lifetimes(self, default: int, checkpoint: Checkpoint) -> Iterator[int]:
        """Yield the lifetime that each row after the checkpoint requests."""
        return self._scan.lifetimes(default, checkpoint.rows)

    def results(
        self, timeout: float, checkpoint: Checkpoint
    ) -> Iterator[Grant | Refusal | FinishedRow]:
        """Yield a result for each row after the checkpoint, invalid rows included, in input order.

        timeout is the longest wait for the next chunk, in seconds. Raises as BatchHandle.results
        does.
        """
        self.refused = checkpoint.refused
        row_groups = self._scan.row_groups
        results = [
            self._group_results(index, row_groups.count(index, 0, checkpoint.rows), timeout)
            for index in range(len(self._scan.groups))
        ]
        invalid = self._scan.invalid_rows.read(row_groups.count(INVALID_ROW, 0, checkpoint.rows))
        finished = islice(self._finished_rows(), checkpoint.rows, None)
        kept = (row for row in finished if row.expires_at is not None)
        remaining = islice(row_groups, checkpoint.rows, None)
        for row_index, group_index in enumerate(remaining, checkpoint.rows):
            if group_index & KEPT_ROW:
                yield next(kept)
                continue
            result = (
                RowRefusal.model_validate(next(invalid))
                if group_index == INVALID_ROW
                else next(results[group_index])
            )
            if isinstance(result, Refusal):
                self.refused += 1
                result = renumber_refusal(result, self._scan.lines[row_index])
            yield result

    def _group_results(
        self, group_index: int, items_done: int, timeout: float
    ) -> Iterator[Grant | Refusal]:
        batch_index, items_of_batch = divmod(items_done, self._batch_plan.batch_size)
        first_chunk, items_of_chunk = divmod(items_of_batch, self._batch_plan.chunk_size)
        slices = remaining_batches(
            self._scan, self._batch_plan, group_index, batch_index, first_chunk
        )
        for batch_slice in slices:
            # By expiry group, and inserted anew, so that the newest batch is the last.
            self._batches.pop(group_index, None)
            batch = self._batches[group_index] = self._request_batch(batch_slice)
            yield from islice(batch.results(timeout), items_of_chunk, None)
            self._update_status()
            items_of_chunk = 0


def _item_from_json(item: dict[str, Any]) -> str | Item:
    key: str = item["key"]
    return key if len(item) == 1 else Item.model_validate(item)
