"""The figures of a report on the audit log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Literal, NamedTuple

from worker.shared.quota_statuses import QuotaStatus

PeriodUnit = Literal["hour", "day", "month"]


class Tally(NamedTuple):
    """The numbers of issued and refused items that have something in common."""

    name: str
    issued: int
    refused: int

    @property
    def total(self) -> int:
        """The number of requested items."""
        return self.issued + self.refused


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Tallies of the largest groups, and the sum of the other groups if there are any.

    groups is the number of all groups, None if only the largest were counted.
    """

    rows: tuple[Tally, ...]
    others: Tally | None = None
    groups: int | None = None


class Received(NamedTuple):
    """A recipient, with the numbers of their grants and objects, and the newest grants.

    newest has their times and object keys.
    """

    recipient: str
    grants: int
    objects: int
    newest: tuple[tuple[datetime, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The range, time zone and filters of a report. since is included, until is not."""

    since: datetime
    until: datetime
    zone: tzinfo
    unit: PeriodUnit
    tenant: str | None = None
    bucket: str | None = None


class CheckpointState(NamedTuple):
    """The newest signed checkpoint of a tenant's tree."""

    tenant: str
    size: int
    signed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """The size of the whole log, whatever the range of the report.

    rows counts the audit rows, and leaves those of the Merkle trees. unsigned_leaves counts the
    leaves that no checkpoint covers yet. pending_webhooks counts webhooks that are not sent yet.
    """

    rows: int
    batches: int
    trees: int
    leaves: int
    unsigned_leaves: int
    pending_webhooks: int
    checkpoints: tuple[CheckpointState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFigures:
    """All figures of one report, read in one transaction.

    periods are the hours, days or months of the range, named as `audit count` names them.
    breakdowns are by the ids of their topics; items for no recipient are among the others of
    recipients. received has the newest grants of the recipients with the most grants. states
    counts issued grants by kind and state. pruned_month is the month before which items were
    removed, None if none of the range were.
    """

    scope: Scope
    generated_at: datetime
    periods: tuple[Tally, ...]
    breakdowns: Mapping[str, Breakdown]
    received: tuple[Received, ...] = ()
    states: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    quotas: tuple[QuotaStatus, ...]
    log: LogState
    pruned_month: str | None = None

    @property
    def issued(self) -> int:
        """The number of issued items in the range."""
        return sum(period.issued for period in self.periods)

    @property
    def refused(self) -> int:
        """The number of refused items in the range."""
        return sum(period.refused for period in self.periods)
