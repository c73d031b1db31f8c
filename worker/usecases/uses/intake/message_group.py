"""Handles messages that were received together: records the uses in them."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from worker.aws.event_queues import VISIBILITY_SECONDS, QueueMessage
from worker.context import Context
from worker.core.uses.notifications.bodies import parse_body
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction
from worker.db.uses.stored_objects import ObjectName, grants_of_objects
from worker.errors import Transient
from worker.usecases.uses.intake.identify import UnknownObject, identify
from worker.usecases.uses.intake.targets import QueueTargets
from worker.usecases.uses.record import record_uses

RETRY_FOR = timedelta(minutes=5)
"""The time in which a message comes again whose event may make sense later.

A deletion may arrive before the event of the object that it deletes, and storage answers 403 both
for a missing object and while credentials are replaced. The time in which the database or storage
was away does not count, up to _RETRY_FOR_LONG.
"""

_RETRY_FOR_LONG = timedelta(days=1)

REPORTS_PER_TRANSACTION = 1_000
"""The reports that are recorded at once. Others wait for a transaction, and issuing may."""


class HandledMessages(NamedTuple):
    """The result of a group.

    handled are the messages to delete. waiting counts events by reason whose messages come again,
    ignored counts those that tell of no use, and recorded those that do.
    """

    handled: Sequence[QueueMessage]
    recorded: int
    ignored: Counter[str]
    waiting: Counter[str]
    problem: Transient | None = None


class _Event(NamedTuple):
    """A report, and the number of its message in the group."""

    message: int
    report: UseReport


class _MessageGroup:
    """The messages of a group, and what became of their events so far."""

    def __init__(
        self, messages: Sequence[QueueMessage], now: datetime, reachable_since: datetime
    ) -> None:
        self.messages = messages
        self._now, self._reachable_since = now, reachable_since
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
        """Let the message of an event come again until RETRY_FOR is over."""
        sent_at = self._sent_at(self.messages[event.message])
        is_new = sent_at > self._now - _RETRY_FOR_LONG
        if is_new and max(sent_at, self._reachable_since) > self._now - RETRY_FOR:
            self.keep(event, reason)
        else:
            self.ignore(reason)

    def _sent_at(self, message: QueueMessage) -> datetime:
        repetitions = message.receive_count - 1
        return message.sent_at or self._now - repetitions * timedelta(seconds=VISIBILITY_SECONDS)

    def result(self, recorded: int) -> HandledMessages:
        handled = [m for number, m in enumerate(self.messages) if number not in self._kept]
        return HandledMessages(handled, recorded, self.ignored, self.waiting, self.problem)


def handle_messages(
    messages: Sequence[QueueMessage],
    targets: QueueTargets,
    context: Context,
    threads: Executor,
    reachable_since: datetime,
) -> HandledMessages:
    """Record the uses in these messages.

    reachable_since is the time since which the database and storage answer.

    Objects are recorded before deletions, which name no grant. Messages that are not handled, and
    those that an interrupted call committed, come again: recording is idempotent. Raises Transient
    if nothing could be recorded.
    """
    group = _MessageGroup(messages, context.now(), reachable_since)
    events = list(_parse(group, targets))
    stored = list(_identified(group, events, targets, context, threads))
    recorded = _record(group, stored, context)
    recorded += _record(group, list(_deletions(group, events, targets, context)), context)
    return group.result(recorded)


def _parse(group: _MessageGroup, targets: QueueTargets) -> Iterator[_Event]:
    for number, message in enumerate(group.messages):
        parsed = parse_body(message.body)
        group.ignored.update(parsed.ignored)
        for report in parsed.reports:
            if not targets.known_buckets(report.bucket):
                group.ignore("other_bucket")
            elif report.grant_id == "":
                group.ignore("no_grant_id")
            else:
                yield _Event(number, report)


def _identified(
    group: _MessageGroup,
    events: Sequence[_Event],
    targets: QueueTargets,
    context: Context,
    threads: Executor,
) -> Iterator[UseReport]:
    """Yield the reports of objects that name their grant, or whose grant storage names."""
    unknown: list[_Event] = []
    objects: list[UnknownObject] = []
    for event, report in _stored(events, targets):
        if report.grant_id is not None:
            yield report
            continue
        access = targets.find_access(report.bucket, report.object_key)
        if access is None:
            group.ignore("other_prefix")
        else:
            unknown.append(event)
            objects.append(UnknownObject(report, access))
    for event, identity in zip(unknown, identify(objects, context, threads), strict=True):
        match identity:
            case UseReport():
                yield identity
            case Transient():
                group.problem = identity
                group.keep(event, "storage_away")
            case "postponed":
                group.keep(event, identity)
            case "hidden" | "refused":
                group.keep_for_some_time(event, identity)
            case _:
                group.ignore(identity)


def _stored(events: Iterable[_Event], targets: QueueTargets) -> Iterator[tuple[_Event, UseReport]]:
    for event in events:
        if event.report.event != "deleted":
            for name in sorted(targets.storing_buckets(event.report.bucket)):
                yield event, event.report._replace(bucket=name)


def _deletions(
    group: _MessageGroup, events: Iterable[_Event], targets: QueueTargets, context: Context
) -> Iterator[UseReport]:
    """Yield the deletions of objects that a grant is known to have stored.

    The others wait if a tenant stores objects under such a key.
    """
    named = [
        (event, event.report._replace(bucket=name))
        for event in events
        if event.report.event == "deleted"
        for name in sorted(targets.known_buckets(event.report.bucket))
    ]
    known = _known_objects([report for _, report in named], context)
    for event, pairs in groupby(named, key=itemgetter(0)):
        reports = [report for _, report in pairs]
        found = [each for each in reports if (each.bucket, each.object_key) in known]
        if len(found) > 1 and len(targets.today.get(event.report.bucket, ())) > 1:
            group.ignore("ambiguous_bucket")
        elif found:
            yield from found
        elif any(targets.find_access(each.bucket, each.object_key) for each in reports):
            group.keep_for_some_time(event, "unknown_object")
        else:
            group.ignore("other_prefix")


def _known_objects(reports: Sequence[UseReport], context: Context) -> Container[ObjectName]:
    if not reports:
        return ()
    with read_transaction(context.engine) as connection:
        return grants_of_objects(connection, [(r.bucket, r.object_key) for r in reports])


def _record(group: _MessageGroup, reports: Sequence[UseReport], context: Context) -> int:
    total = 0
    for start in range(0, len(reports), REPORTS_PER_TRANSACTION):
        part = reports[start : start + REPORTS_PER_TRANSACTION]
        recorded = record_uses(part, context)
        group.ignored.update(recorded.ignored)
        total += recorded.total
    return total
