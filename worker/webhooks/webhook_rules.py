"""The rules of webhooks: retries and circuit breakers.

The schedule follows the example of Standard Webhooks. The first retries come quickly, for an
endpoint that restarts. Later ones are slower, so an endpoint can be down for more than two days
without losing a webhook.

A failure is an attempt without a response, or with a response of 500 or higher. While a circuit is
open, no delivery to its endpoint is attempted, and no attempt is used up. After the pause, one
delivery probes the endpoint: any other response closes the circuit, and another failure opens it
for a longer pause.

A success is a response of 2xx. A series of attempts without one disables the endpoint in the end,
also if the endpoint responds. A success after a series brings forward what waits for the endpoint.
"""

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple


class WebhookName(NamedTuple):
    """The parts of a webhook's id. batch_id is None for events without a batch."""

    event: str
    tenant_id: str
    batch_id: str | None
    chunk_number: int | None
    page: int
    pages: int
    group_id: str | None

    @property
    def webhook_id(self) -> str:
        """The id of the webhook, in which Standard Webhooks 1.0.0 allows no dot."""
        if self.batch_id is None:
            return f"{self.tenant_id}-{self.event.replace('.', '-')}-{self.group_id}"
        kind = self.event.rpartition(".")[2]
        if self.event == "grants.decided":
            kind = f"p{self.page}" if self.pages > 1 else ""
        parts = self.batch_id, self.chunk_number, kind, self.group_id
        return "-".join(str(part) for part in parts if part not in {None, ""})


RETRY_SCHEDULE = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=20),
    timedelta(hours=24),
)
MAX_RETRY_DELAY = timedelta(hours=24)
RETRY_JITTER = 0.2


def retry_delay(
    attempts: int, jitter: float, retry_after: timedelta | None = None
) -> timedelta | None:
    """Return the delay before the next attempt, or None if no attempts are left.

    It is the longer of the schedule's delay and the endpoint's Retry-After, 24 hours at most.
    `attempts` is the number of attempts already made, from 0. `jitter`, 0 <= jitter < 1, moves the
    schedule's delay by up to 20 % in either direction, so that deliveries that failed together are
    not retried together.
    """
    if attempts >= len(RETRY_SCHEDULE):
        return None
    delay = RETRY_SCHEDULE[attempts] * (1 - RETRY_JITTER + 2 * RETRY_JITTER * jitter)
    return min(max(delay, retry_after or timedelta(0)), MAX_RETRY_DELAY)


CIRCUIT_THRESHOLD = 5
FIRST_CIRCUIT_PAUSE = timedelta(seconds=5)
MAX_CIRCUIT_PAUSE = timedelta(minutes=5)


def circuit_pause(failures: int) -> timedelta | None:
    """Return the pause after this many consecutive failures, or None if there is none yet."""
    if failures < CIRCUIT_THRESHOLD:
        return None
    doublings = min(failures - CIRCUIT_THRESHOLD, 10)  # far over MAX_PAUSE
    return min(FIRST_CIRCUIT_PAUSE * (1 << doublings), MAX_CIRCUIT_PAUSE)


GONE = 410
"""The status of an endpoint that wants no more webhooks, by Standard Webhooks 1.0.0."""

DISABLED_AFTER = timedelta(days=5)
_MAX_SERIES_GAP = timedelta(days=2)  # retries are a day apart at most
_MIN_OUTAGE = timedelta(seconds=30)


class EndpointHealth(NamedTuple):
    """The state of an endpoint, from the attempts that called it; the fields are EndpointState's.

    Its circuit is open until open_until, and closed if that is None. failing_since and failed_at
    are the first and the last attempt of a series without a success.
    """

    failures: int = 0
    open_until: datetime | None = None
    failing_since: datetime | None = None
    failed_at: datetime | None = None
    problem: str | None = None
    disabled_at: datetime | None = None
    disabled_by: str | None = None

    @property
    def state(self) -> tuple[str, datetime | None]:
        """Return disabled, paused, failing or ok, and the time of the first failure of a series.

        An endpoint that was enabled is ok until its probe fails, which may be long after.
        """
        if self.disabled_at is not None:
            return "disabled", self.disabled_at
        if self.failing_since is None:
            return "ok", None
        return "failing" if self.open_until is None else "paused", self.failing_since

    def may_be_called(self, now: datetime) -> bool:
        """Return true if deliveries may be sent: one of them, if it needs a probe."""
        is_open = self.open_until is not None and self.open_until > now
        return self.disabled_at is None and not is_open

    def needs_probe(self, now: datetime) -> bool:
        """Return true if a single delivery may be attempted."""
        return self.open_until is not None and self.open_until <= now

    def after_failures(
        self, down: int, attempted_at: datetime, now: datetime, *, is_up: bool, is_probe: bool
    ) -> "EndpointHealth":
        """Return the state after failed attempts, which ran at the same time.

        down counts those that are failures of the circuit, and is_up is true if another one had a
        response below 500. attempted_at is the time of the first one.
        """
        failures, open_until = (
            (0, None) if is_up else self._circuit_after(down, now, is_probe=is_probe)
        )
        since = self.failing_since
        if since is None or self.failed_at is None or now - self.failed_at > _MAX_SERIES_GAP:
            since = attempted_at
        return self._replace(
            failures=failures, open_until=open_until, failing_since=since, failed_at=now
        )

    def _circuit_after(
        self, count: int, now: datetime, *, is_probe: bool
    ) -> tuple[int, datetime | None]:
        # Only a failed probe lengthens the pause. Attempts that began before the circuit was
        # opened change nothing.
        if self.open_until is not None and not is_probe:
            return self.failures, self.open_until
        failures = self.failures + 1 if is_probe else min(self.failures + count, CIRCUIT_THRESHOLD)
        pause = circuit_pause(failures)
        return failures, None if pause is None else now + pause

    @property
    def has_failed_for_days(self) -> bool:
        """Return true if the series is long enough to disable the endpoint.

        No two of its attempts are more than two days apart: there were at least three of them.
        """
        first, last = self.failing_since, self.failed_at
        return first is not None and last is not None and last - first >= DISABLED_AFTER

    def was_down(self, now: datetime) -> bool:
        """Return true if a success now ends an outage, after which waiting deliveries are due.

        Without a minimum, one delivery that fails always, among others that succeed, would be
        attempted as often as others are sent.
        """
        since = self.failing_since
        return self.open_until is not None or (since is not None and now - since >= _MIN_OUTAGE)


_SHORTEST, _LONGEST, _CLASSES = 5.0, 20_000.0, 24
LATENCY_BOUNDS = tuple(
    _SHORTEST * (_LONGEST / _SHORTEST) ** (step / (_CLASSES - 2)) for step in range(_CLASSES - 1)
)
"""The upper limits in milliseconds of all classes of response times but the last: 1.46 apart."""


def latency_class(duration_ms: int | None, status: int | None) -> int:
    """Return the class of a response time, from 1; 0 without a response."""
    return 0 if status is None else bisect_left(LATENCY_BOUNDS, duration_ms or 0) + 1


def latency_quantile(counts: Sequence[int], share: float) -> float | None:
    """Estimate the response time below which a share of the responses were; None without any.

    counts are the numbers of responses in the classes from 1 on. The true time is in the same
    class. Within it, the time is interpolated, as if the logarithms were spread evenly.
    """
    rank, seen = share * sum(counts), 0
    for number, count in enumerate(counts):
        if count and seen + count >= rank:
            upper = LATENCY_BOUNDS[min(number, _CLASSES - 2)]
            lower = LATENCY_BOUNDS[number - 1] if number else 1.0
            return float(lower * (upper / lower) ** ((rank - seen) / count))
        seen += count
    return None
