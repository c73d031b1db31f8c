"""Handles the messages of an event queue: finds the grants of their objects, and records the uses.

Events of AWS do not name the grant, so storage is asked: one HEAD an object, several at once, and
only for keys under a tenant's prefixes.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from worker.base.database_engine import read_transaction
from worker.context import Context
from worker.errors import StorageSilent, Transient
from worker.rules.issued_grants import may_store, storage_name
from worker.rules.tenant_config import Bucket, TenantAccess, TenantConfig
from worker.shared.pages import in_parts
from worker.shared.stored_files import StorageRefuses, StoredFile
from worker.uses.events.event_notifications import parse_body
from worker.uses.events.event_queues import VISIBILITY_SECONDS, QueueMessage
from worker.uses.storage_probes import file_fields, open_files
from worker.uses.stored_objects import ObjectName, read_objects
from worker.uses.use_recorder import record_uses
from worker.uses.use_reports import UseReport
from worker.uses.use_rows import bucket_history

_Names = Mapping[str, frozenset[str]]  # storage names by the name that notifications have


class QueueTargets(NamedTuple):
    """The objects and tenants about which one queue is believed.

    accesses are those of tenants that store objects, by storage name and prefix. today are the
    storage names of the buckets to which the profiles that name the queue lead, and former those to
    which they have led, both by the name of the bucket. Events of others are not believed, because
    whoever writes to the queue may be someone else.
    """

    accesses: Mapping[tuple[str, str], TenantAccess]
    today: _Names
    former: _Names

    def storing_buckets(self, name: str) -> frozenset[str]:
        """Return the storage names of the buckets that a new object may be in.

        Usually one: more if the profiles lead to buckets of one name on several servers.
        """
        return self.today.get(name) or frozenset(sorted(self.former.get(name, ()))[:1])

    def known_buckets(self, name: str) -> frozenset[str]:
        """Return the storage names under which an object may be known that is deleted now."""
        return self.today.get(name, frozenset()) | self.former.get(name, frozenset())

    def find_access(self, bucket: str, object_key: str) -> TenantAccess | None:
        """Return the access under whose longest prefix a key is, or None.

        A prefix ends with a slash, or is that of the whole bucket.
        """
        ends = [end for end, character in enumerate(object_key, 1) if character == "/"]
        for end in (*reversed(ends), 0):
            access = self.accesses.get((bucket, object_key[:end]))
            if access is not None:
                return access
        return None


def queue_targets(queue_url: str, config: TenantConfig, context: Context) -> QueueTargets:
    """Return the objects that a queue may report. Raises Transient."""
    profiles = [b for b in config.buckets.values() if b.events_queue == queue_url]
    with read_transaction(context.engine) as connection:
        former = [
            replace(profile, bucket=place.bucket, endpoint=place.endpoint)
            for profile in profiles
            for place in bucket_history(connection, profile.name, config)
        ]
    # Storage of a former bucket is asked only where the credentials are known to belong.
    endpoints = {(profile.name, profile.endpoint) for profile in profiles}
    asked = [bucket for bucket in former if (bucket.name, bucket.endpoint) in endpoints]
    return QueueTargets(_accesses([*profiles, *asked], config), _names(profiles), _names(former))


def _names(buckets: Iterable[Bucket]) -> _Names:
    found: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
    for bucket in buckets:
        found[bucket.bucket] |= {storage_name(bucket)}
    return dict(found)


def _accesses(
    profiles: Iterable[Bucket], config: TenantConfig
) -> Mapping[tuple[str, str], TenantAccess]:
    found: dict[tuple[str, str], TenantAccess] = {}
    for profile in profiles:
        for tenant in config.tenants.values():
            policy = tenant.policies.get(profile.name)
            if policy is not None and may_store(policy):
                access = TenantAccess(profile, tenant, policy)
                for prefix in policy.prefixes:
                    found.setdefault((storage_name(profile), prefix), access)
    return found


Unidentified = Literal["gone", "hidden", "refused", "replaced", "no_grant_id", "postponed"]
"""The reasons why storage names no grant for an event.

gone: the object was deleted meanwhile. hidden: the credentials may not read it, or it was deleted
and they may not list the bucket. refused: storage answers with another error. replaced: another
object has the key, and another event reports it. no_grant_id: no grant stored it. postponed:
storage answers too slowly to be asked for all objects now.
"""

ASK_SECONDS = 30.0
"""The time in seconds in which storage is asked. Then messages would soon come again anyway."""


Identity = UseReport | Unidentified | Transient
"""The report with its grant, why there is none, or why storage could not be asked now."""


def _identify_object(report: UseReport, access: TenantAccess, context: Context) -> Identity:
    """Ask storage for the grant that stored an object."""
    silent_buckets, now = context.s3.silent_buckets, context.now()
    try:
        silent_buckets.check(access.bucket, now)
        file = open_files(access, context).find(report.object_key, report.version)
    except StorageRefuses:
        return "refused"
    except Transient as error:
        if isinstance(error, StorageSilent):
            silent_buckets.add(access.bucket, now)
        return error
    if not isinstance(file, StoredFile):
        return "gone" if file == "absent" else "hidden"
    if report.etag is not None and report.etag != file.etag:
        return "replaced"
    if file.grant_id is None:
        return "no_grant_id"
    version = report.version or file.version
    return report._replace(**file_fields(file) | {"version": version})


RETRY_FOR = timedelta(minutes=5)
"""The time in which a message comes again whose event may make sense later.

A deletion may arrive before the event of the object that it deletes, and storage answers 403 both
for a missing object and while credentials are replaced. The time in which the database or storage
was unreachable does not count, up to _RETRY_FOR_LONG.
"""

_RETRY_FOR_LONG = timedelta(days=1)

REPORTS_PER_TRANSACTION = 1_000
"""The reports that are recorded at once. Others wait for a transaction, and issuing may."""


class _Event(NamedTuple):
    """A report, and its message."""

    message: QueueMessage
    report: UseReport


@dataclass(slots=True)
class MessageGroup:
    """Messages of one queue that are handled together, and the outcome of their events.

    threads ask storage, and reachable_since is the time since which it and the database answer.
    recorded counts uses, ignored counts events without a use by reason, and waiting those whose
    messages come again. problem is why storage could not be asked for some, or None.
    """

    messages: Sequence[QueueMessage]
    targets: QueueTargets
    context: Context
    threads: Executor
    reachable_since: datetime
    recorded: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    problem: Transient | None = None
    _kept: set[QueueMessage] = field(default_factory=set)

    @property
    def handled(self) -> Sequence[QueueMessage]:
        """The messages to delete."""
        return [message for message in self.messages if message not in self._kept]

    def handle(self) -> None:
        """Record the uses in the messages.

        Objects are recorded before deletions, which name no grant. Messages that are not handled,
        and those that an interrupted call committed, come again: recording is idempotent. Raises
        Transient if nothing could be recorded.
        """
        events = list(self._parse())
        self._record(list(self._identified(events)))
        self._record(list(self._deletions(events)))

    def _parse(self) -> Iterator[_Event]:
        for message in self.messages:
            parsed = parse_body(message.body)
            self.ignored.update(parsed.ignored)
            for report in parsed.reports:
                if not self.targets.known_buckets(report.bucket):
                    self.ignored["other_bucket"] += 1
                elif report.grant_id == "":
                    self.ignored["no_grant_id"] += 1
                else:
                    yield _Event(message, report)

    def _identified(self, events: Sequence[_Event]) -> Iterator[UseReport]:
        """Yield the reports of objects that name their grant, or whose grant storage names."""
        unknown: list[tuple[_Event, TenantAccess]] = []
        for event in events:
            if event.report.event == "deleted":
                continue
            for report in _in_buckets(event, self.targets.storing_buckets(event.report.bucket)):
                access = self.targets.find_access(report.bucket, report.object_key)
                if report.grant_id is not None:
                    yield report
                elif access is None:
                    self.ignored["other_prefix"] += 1
                else:
                    unknown.append((event._replace(report=report), access))
        end = time.monotonic() + ASK_SECONDS

        def ask(found: tuple[_Event, TenantAccess]) -> Identity:
            event, access = found
            is_late = time.monotonic() >= end
            return "postponed" if is_late else _identify_object(event.report, access, self.context)

        for (event, _), identity in zip(unknown, self.threads.map(ask, unknown), strict=True):
            if isinstance(identity, UseReport):
                yield identity
            else:
                self._leave(event, identity)

    def _leave(self, event: _Event, reason: Unidentified | Transient) -> None:
        match reason:
            case Transient():
                self.problem = reason
                self._keep(event, "storage_away")
            case "postponed":
                self._keep(event, reason)
            case "hidden" | "refused":
                self._keep_for_some_time(event, reason)
            case _:
                self.ignored[reason] += 1

    def _deletions(self, events: Iterable[_Event]) -> Iterator[UseReport]:
        """Yield the deletions of objects that a grant is known to have stored.

        The others wait if a tenant stores objects under such a key.
        """
        deletions = [
            (event, _in_buckets(event, self.targets.known_buckets(event.report.bucket)))
            for event in events
            if event.report.event == "deleted"
        ]
        names = [(each.bucket, each.object_key) for _, reports in deletions for each in reports]
        known: Container[ObjectName] = ()
        if names:
            with read_transaction(self.context.engine) as connection:
                known = read_objects(connection, names)
        for event, reports in deletions:
            found = [each for each in reports if (each.bucket, each.object_key) in known]
            if len(found) > 1 and len(self.targets.today.get(event.report.bucket, ())) > 1:
                self.ignored["ambiguous_bucket"] += 1
            elif found:
                yield from found
            elif any(self.targets.find_access(each.bucket, each.object_key) for each in reports):
                self._keep_for_some_time(event, "unknown_object")
            else:
                self.ignored["other_prefix"] += 1

    def _keep(self, event: _Event, reason: str) -> None:
        """Let the message of an event come again."""
        self._kept.add(event.message)
        self.waiting[reason] += 1

    def _keep_for_some_time(self, event: _Event, reason: str) -> None:
        """Let the message of an event come again until RETRY_FOR is over."""
        now = self.context.now()
        repetitions = (event.message.receive_count - 1) * timedelta(seconds=VISIBILITY_SECONDS)
        sent_at = event.message.sent_at or now - repetitions
        is_new = sent_at > now - _RETRY_FOR_LONG
        if is_new and max(sent_at, self.reachable_since) > now - RETRY_FOR:
            self._keep(event, reason)
        else:
            self.ignored[reason] += 1

    def _record(self, reports: Sequence[UseReport]) -> None:
        for part in in_parts(reports, REPORTS_PER_TRANSACTION):
            recorded = record_uses(part, self.context)
            self.ignored.update(recorded.ignored)
            self.recorded += recorded.total


def _in_buckets(event: _Event, names: Iterable[str]) -> list[UseReport]:
    return [event.report._replace(bucket=name) for name in sorted(names)]
