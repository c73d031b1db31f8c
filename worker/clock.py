"""The current time, and the rule for a clock that differs from those of the servers."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

MAX_DIFFERENCE = timedelta(minutes=1)
"""As far ahead as a request's clock may be: beyond it, a worker refuses what others grant."""


def now() -> datetime:
    """Return the current time in UTC. All other code receives the time as an argument."""
    return datetime.now(UTC)


def clock_problems(ahead: Mapping[str, timedelta]) -> dict[str, str]:
    """Return what is wrong with the clocks, by code.

    ahead has for each server the time by which its clock is ahead of this machine's. `own_clock`:
    no server confirms this machine's clock. Where there is one server only, either of the two may
    be wrong; but a wrong refusal cannot be taken back, and a wait can. `server_clock`: another
    server does confirm it.
    """
    far = {name: time for name, time in ahead.items() if abs(time) > MAX_DIFFERENCE}
    code = "own_clock" if len(far) == len(ahead) else "server_clock"
    texts = [
        f"that of {name} is {round(abs(time).total_seconds()):,} s"
        f" {'ahead' if time > timedelta(0) else 'behind'}"
        for name, time in sorted(far.items())
    ]
    return {code: f"compared with this machine's clock, {' and '.join(texts)}"} if far else {}
