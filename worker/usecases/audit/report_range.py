"""The range of an audit report: hours, days or months, and their names."""

from datetime import datetime, timedelta

from worker.audit_report.figures import PeriodUnit, Scope
from worker.db.audit.periods import describe_unit, seconds_per_unit

MAX_YEARS = 20
_HOUR = 3_600
_LONGEST: tuple[tuple[PeriodUnit, timedelta], ...] = (
    ("hour", timedelta(days=3)),
    ("day", timedelta(days=93)),  # a quarter, and the hour that it can be longer
    ("month", timedelta(days=366 * MAX_YEARS)),
)


class UnusableRange(ValueError):
    """The range of a report is empty or too long."""


def choose_unit(since: datetime, until: datetime) -> PeriodUnit:
    """Return the unit in which a report shows a range. Raises UnusableRange."""
    if since >= until:
        raise UnusableRange(f"the range ends at {until:%F %T} UTC, before it begins")
    for unit, longest in _LONGEST:
        if until - since <= longest:
            return unit
    raise UnusableRange(f"the range is longer than {MAX_YEARS} years")


def period_names(scope: Scope) -> list[str]:
    """Return the names of all periods of a report's range, as `audit count` names them."""
    seconds = seconds_per_unit(scope.unit, scope.zone)
    first = int(scope.since.timestamp()) // seconds
    last = int((scope.until - timedelta(microseconds=1)).timestamp()) // seconds
    # An hour is the shortest period: no period is skipped by steps of an hour.
    units = [*range(first, last + 1, max(_HOUR // seconds, 1)), last]
    return list(dict.fromkeys(describe_unit(scope.unit, scope.zone, unit) for unit in units))
