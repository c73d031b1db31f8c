from datetime import UTC, datetime


def now() -> datetime:
    """Read the time, in UTC. Everything else is told it."""
    return datetime.now(UTC)
