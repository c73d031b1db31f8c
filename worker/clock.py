from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time in UTC. All other code receives the time as an argument."""
    return datetime.now(UTC)


MAX_CLOCK_SKEW = 60
"""The largest time in seconds by which a producer's clock may be ahead."""

MAX_AGE = 86_400.0  # seconds; a sender's clock may be wrong by any time


def seconds_since(sent_at: int, now: datetime) -> float:
    """Return the age of what was sent at this Unix time in milliseconds, from 0 to MAX_AGE."""
    return min(max(now.timestamp() - sent_at / 1_000, 0.0), MAX_AGE)
