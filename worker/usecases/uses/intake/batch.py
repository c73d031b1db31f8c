"""Handles the messages of one batch: reads them, and records the uses of which they tell."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from worker.aws.event_queues import QueueMessage
from worker.context import Context
from worker.core.uses.notifications.bodies import parse_body
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction
from worker.db.uses.stored_objects import ObjectName, ObjectOfGrant, grants_of_objects
from worker.errors import Transient
from worker.usecases.uses.intake.identify import UnknownObject, identify
from worker.usecases.uses.intake.targets import QueueTargets
from worker.usecases.uses.record import record_uses

MAX_RECEIVES = 3
"""How often a message is received whose event may make sense later.

A deletion may arrive before the event of the object that it deletes, and storage answers 403 both
for a missing object and while credentials are replaced.
"""


class HandledBatch(NamedTuple):
    """The result of a batch.

    handled are the messages to delete. waiting counts events by reason whose messages come again,
    ignored counts those that tell of no use, and recorded those that do.
    """

    handled: Sequence[QueueMessage]
    recorded: int
    ignored: Counter[str]
    waiting: Counter[str]
    problem: Transient | None = None


class _Event(NamedTuple):
    """A report, and the number of its message in the batch."""

    message: int
    report: UseReport


class _Batch:
    """The messages of a batch, and what became of their events so far."""

    def __init__(self, messages: Sequence[QueueMessage]) -> None:
        self.messages = messages
        self.ignored: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self.problem: Transient | None = None
        self._kept: set[int] = set()

    def ignore(self, reason: str) -> None:
        self.ignored[reason] += 1

    def keep(self, event: _Event, reason: str) -> None:
        """Let the message of an event come again."""
        self._kept.add(event.message)
        self.waiting[reason] += 1

    def keep_for_some_time(self, event: _Event, reason: str) -> None:
        """Let the message of an event come again, until it has been received MAX_RECEIVES times."""
        if self.messages[event.message].receive_count < MAX_RECEIVES:
            self.keep(event, reason)
        else:
            self.ignore(reason)

    def result(self, recorded: int) -> HandledBatch:
        handled = [m for number, m in enumerate(self.messages) if number not in self._kept]
        return HandledBatch(handled, recorded, self.ignored, self.waiting, self.problem)


def handle_messages(
    messages: Sequence[QueueMessage], targets: QueueTargets, context: Context, threads: Executor
) -> HandledBatch:
    """Record the uses of which these messages tell.

    Objects are recorded before deletions, which name no grant. Messages that are not handled, and
    those that an interrupted call committed, come again: recording is idempotent. Raises Transient
    if nothing could be recorded.
    """
    batch = _Batch(messages)
    events = list(_parse(batch, targets))
    stored = list(_identified(batch, events, targets, context, threads))
    recorded = _record(batch, stored, context)
    recorded += _record(batch, list(_deletions(batch, events, targets, context)), context)
    return batch.result(recorded)


def _parse(batch: _Batch, targets: QueueTargets) -> Iterator[_Event]:
    for number, message in enumerate(batch.messages):
        parsed = parse_body(message.body)
        batch.ignored.update(parsed.ignored)
        for report in parsed.reports:
            if report.bucket not in targets.buckets:
                batch.ignore("other_bucket")
            elif report.grant_id == "":
                batch.ignore("no_grant_id")
            else:
                yield _Event(number, report)


def _identified(
    batch: _Batch,
    events: Sequence[_Event],
    targets: QueueTargets,
    context: Context,
    threads: Executor,
) -> Iterator[UseReport]:
    """Yield the reports of objects that name their grant, or whose grant storage names."""
    unknown: list[_Event] = []
    objects: list[UnknownObject] = []
    for event in events:
        report = event.report
        if report.event == "deleted":
            continue
        if report.grant_id is not None:
            yield report
            continue
        access = targets.find_access(report.bucket, report.object_key)
        if access is None:
            batch.ignore("other_prefix")
        else:
            unknown.append(event)
            objects.append(UnknownObject(report, access))
    for event, identity in zip(unknown, identify(objects, context, threads), strict=True):
        match identity:
            case UseReport():
                yield identity
            case Transient():
                batch.problem = identity
                batch.keep(event, "storage_away")
            case "hidden" | "refused":
                batch.keep_for_some_time(event, identity)
            case _:
                batch.ignore(identity)


def _deletions(
    batch: _Batch, events: Sequence[_Event], targets: QueueTargets, context: Context
) -> Iterator[UseReport]:
    """Yield the deletions of keys that a grant is known to have stored."""
    deletions: list[_Event] = []
    for event in events:
        if event.report.event != "deleted":
            continue
        if targets.find_access(event.report.bucket, event.report.object_key) is None:
            batch.ignore("other_prefix")
        else:
            deletions.append(event)
    names = [(event.report.bucket, event.report.object_key) for event in deletions]
    known: Mapping[ObjectName, ObjectOfGrant] = {}
    if names:
        with read_transaction(context.engine) as connection:
            known = grants_of_objects(connection, names)
    for event, name in zip(deletions, names, strict=True):
        if name in known:
            yield event.report
        else:
            batch.keep_for_some_time(event, "unknown_object")


def _record(batch: _Batch, reports: Sequence[UseReport], context: Context) -> int:
    if not reports:
        return 0
    recorded = record_uses(reports, context)
    batch.ignored.update(recorded.ignored)
    return recorded.total
