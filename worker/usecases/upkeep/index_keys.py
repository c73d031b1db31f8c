"""Indexes the object keys of recent chunks, and merges the segments of the key lookup."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.db.engine import read_transaction, write_transaction
from worker.db.key_lookup import segments
from worker.db.key_lookup.entries import (
    divide_into_pages,
    make_entry,
    page_bits_for,
    split_page,
)
from worker.db.key_lookup.segments import Segment, SegmentLost

if TYPE_CHECKING:  # commands that look for a key start without the worker's services and jobs
    from worker.context import Context
    from worker.jobs.single_flight import JobRun

MIN_CHUNKS, MAX_CHUNKS = 16, 128
"""The numbers of chunks that make a segment. Fewer are not indexed: a search scans them."""
MERGED_SEGMENTS = 16
MAX_MERGED_ENTRIES = 1 << 20
"""The size over which segments stay as they are: a search reads one page for each."""
_STALE = timedelta(minutes=10)
_ENTRIES_PER_STEP = 50_000  # in one transaction, which makes other writers wait


def index_keys(context: "Context", run: "JobRun | None" = None) -> dict[str, int]:
    """Index chunks until fewer than MIN_CHUNKS are left, and merge segments.

    Any number of processes may do this at once, and it may be killed at any time. Returns counts.
    Raises Transient.
    """
    if run is None:
        from worker.jobs.single_flight import JobRun  # noqa: PLC0415

        run = JobRun()
    counts = {"indexed_chunks": 0, "merged_segments": 0}
    while not run.is_stopping:
        indexed = _index_chunks(context)
        merged = _merge_segments(context, run)
        counts["indexed_chunks"] += indexed
        counts["merged_segments"] += merged
        run.progress()
        if indexed == 0 and merged == 0:
            break
    _delete_obsolete(context, run)
    return counts


def _index_chunks(context: "Context") -> int:
    """Index the oldest chunks in one segment, and return their number."""
    with read_transaction(context.engine) as connection:
        chunks = segments.read_unindexed_chunks(connection, MAX_CHUNKS)
        if len(chunks) < MIN_CHUNKS:
            return 0
        are_indexed = set(chunks)
        # All of this is read and sorted before other writers have to wait.
        entries = sorted(
            make_entry(key, batch, item)
            for chunk, batch, item, key in segments.read_keys(connection, chunks)
            if (batch, chunk) in are_indexed
        )
    page_bits = page_bits_for(len(entries))
    segment = Segment(0, len(entries), page_bits, chunks[0][0], chunks[-1][0])
    with suppress(SegmentLost), write_transaction(context.engine) as connection:
        segments.delete_unindexed_chunks(connection, chunks)
        if entries:  # their audit rows may be gone
            number = segments.insert_segment(connection, "complete", segment, context.now())
            segments.insert_pages(connection, number, divide_into_pages(entries, page_bits))
        return len(chunks)
    return 0


def _merge_segments(context: "Context", run: "JobRun") -> int:
    """Merge segments of a similar size, if there are enough, and return their number."""
    with read_transaction(context.engine) as connection:
        sources = _choose_sources(segments.read_segments(connection, MAX_MERGED_ENTRIES))
        if not sources or segments.has_building_segment(connection):
            return 0
    with suppress(SegmentLost):
        return len(sources) if _merge(context, run, sources) else 0
    return 0


def _choose_sources(candidates: Sequence[Segment]) -> Sequence[Segment]:
    by_size: defaultdict[int, list[Segment]] = defaultdict(list)
    for segment in candidates:
        size = (segment.entries.bit_length() - 1) // (MERGED_SEGMENTS.bit_length() - 1)
        by_size[size].append(segment)
        if len(by_size[size]) == MERGED_SEGMENTS:
            return by_size[size]
    return ()


def _merge(context: "Context", run: "JobRun", sources: Sequence[Segment]) -> bool:
    """Build a segment in small transactions, which no search reads, and then replace the sources.

    Returns whether that was done before the run had to stop. Raises SegmentLost if the sources were
    merged by another process, or this one was too slow.
    """
    entries = sum(source.entries for source in sources)
    oldest = min(source.oldest_batch for source in sources)
    newest = max(source.newest_batch for source in sources)
    target = Segment(0, entries, page_bits_for(entries), oldest, newest)
    with write_transaction(context.engine) as connection:
        number = segments.insert_segment(connection, "building", target, context.now())
    for step in _sorted_steps(context, sources, entries):
        pages = list(divide_into_pages(step, target.page_bits))
        with write_transaction(context.engine) as connection:
            segments.change_state(connection, [number], "building", "building", context.now())
            segments.insert_pages(connection, number, pages)
        run.progress()
        if run.is_stopping:
            return _give_up(context, number)
    source_numbers = [source.segment_number for source in sources]
    with write_transaction(context.engine) as connection:
        segments.change_state(connection, [number], "building", "complete", context.now())
        segments.change_state(connection, source_numbers, "complete", "obsolete", context.now())
    return True


def _give_up(context: "Context", number: int) -> bool:
    with write_transaction(context.engine) as connection:
        segments.change_state(connection, [number], "building", "obsolete", context.now())
    return False


def _sorted_steps(
    context: "Context", sources: Sequence[Segment], entries: int
) -> Iterator[list[bytes]]:
    """Yield the entries of all sources in order, in steps that end at the end of a page."""
    bits = (entries // _ENTRIES_PER_STEP).bit_length()
    bits = min(bits, *(source.page_bits for source in sources))
    for step in range(1 << bits):
        merged: list[bytes] = []
        with read_transaction(context.engine) as connection:
            for source in sources:
                shift = source.page_bits - bits
                pages = (source.segment_number, step << shift, (step + 1) << shift)
                for content in segments.read_pages(connection, *pages):
                    merged += split_page(content)
        merged.sort()  # fast, because it consists of sorted runs
        yield merged


def _delete_obsolete(context: "Context", run: "JobRun") -> None:
    with write_transaction(context.engine) as connection:
        segments.expire_building_segments(connection, context.now() - _STALE)
    deleted = 1
    while deleted and not run.is_stopping:
        with write_transaction(context.engine) as connection:
            deleted = segments.delete_obsolete_segment(connection)
        run.progress()
