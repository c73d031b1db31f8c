from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time in UTC. All other code receives the time as an argument."""
    return datetime.now(UTC)
