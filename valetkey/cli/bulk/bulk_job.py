"""From a survey to batches, and from their answers back to the order of the input."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from valetkey.cli.bulk.input_scan import BAD_ROW, InputScan
from valetkey.cli.bulk.journal import BatchPlan, Checkpoint
from valetkey.cli.bulk.row_errors import RowRefusal, refusal_for_row
from valetkey.cli.messages import refusal_identity
from valetkey.handles import BatchHandle
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS, Grant, Item
from valetkey.wire.refusals import QuotaState, Refusal

_SMALLEST_CHUNK = 100  # items: of 16 lives, some 50,000 answers may then wait: 80 MB


class BatchSlice(NamedTuple):
    """What is asked for in one batch: items are those from its chunk `first_chunk` on.

    expires_in is their own, if they have one; largest is the size of the largest item there is.
    """

    batch: str
    items: Iterator[str | Item]
    total: int
    chunk_size: int
    first_chunk: int
    expires_in: int | None
    largest: int


BatchRequester = Callable[[BatchSlice], BatchHandle]


def plan_batches(survey: InputScan, batch_size: int, new_id: Callable[[], str]) -> BatchPlan:
    """Cut an input into batches of one life each, in its order.

    All lives have a batch under way at once: the more there are, the smaller are the chunks, so
    that the answers which wait for their turn take little memory. Small chunks cost time.
    """
    counts = [-(-life.items.count // batch_size) for life in survey.lives]
    batches = [[new_id() for _ in range(count)] for count in counts]
    chunk_size = max(DEFAULT_CHUNK_ITEMS // max(len(counts), 1), _SMALLEST_CHUNK)
    return BatchPlan(batches, batch_size, chunk_size)


def batch_slices(
    survey: InputScan, plan: BatchPlan, place: int, number: int = 0, first: int = 0
) -> Iterator[BatchSlice]:
    """The batches of one life, from the chunk `first` of the batch `number` on.

    Each must be read before the next one is asked for.
    """
    life, (batches, batch_size, chunk_size) = survey.lives[place], plan
    items = map(_asked, life.items.read(number * batch_size + first * chunk_size))
    for batch in batches[place][number:]:
        total = min(batch_size, life.items.count - number * batch_size)
        own = islice(items, total - first * chunk_size)
        yield BatchSlice(batch, own, total, chunk_size, first, life.expires_in, life.largest)
        number, first = number + 1, 0


class BulkJob:
    """The rows of an input under way.

    refused counts the rows that were left out as well. refusals are those of whole batches, each
    once; quotas the tenant's as they stood with the newest answer.
    """

    def __init__(self, survey: InputScan, plan: BatchPlan, ask: BatchRequester) -> None:
        self.total = len(survey.plan)
        self.refused = 0
        self._survey = survey
        self._cut = plan
        self._ask = ask
        self._under_way: dict[int, BatchHandle] = {}  # one of each life: those read are forgotten
        self._refusals: dict[tuple[str, str, str], Refusal] = {}
        self._quotas: list[QuotaState] = []

    @property
    def refusals(self) -> list[Refusal]:
        """Why batches were refused as a whole."""
        self._hear()
        return list(self._refusals.values())

    @property
    def quotas(self) -> list[QuotaState]:
        """The tenant's quotas."""
        self._hear()
        return self._quotas

    def results(self, timeout: float, mark: Checkpoint) -> Iterator[Grant | Refusal]:
        """An answer for each row behind the mark, in the order of the input, for bad ones as well.

        timeout is the longest wait for the next chunk, in seconds. Raises as BatchHandle.results
        does.
        """
        self.refused = mark.refused
        plan, lives = self._survey.plan, range(len(self._survey.lives))
        answers = [self._of_life(n, plan.count(n, 0, mark.rows), timeout) for n in lives]
        bad = self._survey.bad.read(plan.count(BAD_ROW, 0, mark.rows))
        rows = range(self._survey.first_row + mark.rows, self._survey.first_row + len(plan))
        for number, place in zip(rows, islice(plan, mark.rows, None), strict=True):
            answer = (
                RowRefusal.model_validate(next(bad)) if place == BAD_ROW else next(answers[place])
            )
            if isinstance(answer, Refusal):
                self.refused += 1
                answer = refusal_for_row(answer, number)
            yield answer

    def _of_life(self, place: int, done: int, timeout: float) -> Iterator[Grant | Refusal]:
        number, within = divmod(done, self._cut.batch_size)
        first, read = divmod(within, self._cut.chunk_size)
        for part in batch_slices(self._survey, self._cut, place, number, first):
            self._under_way.pop(place, None)  # so that the newest is the last
            batch = self._under_way[place] = self._ask(part)
            yield from islice(batch.results(timeout), read, None)
            self._hear()
            read = 0

    def _hear(self) -> None:
        for batch in self._under_way.values():
            self._quotas = batch.quotas or self._quotas
            if (one := batch.refusal) is not None:
                self._refusals.setdefault(refusal_identity(one), one)


def _asked(item: dict[str, Any]) -> str | Item:
    key: str = item["key"]
    return key if len(item) == 1 else Item.model_validate(item)
