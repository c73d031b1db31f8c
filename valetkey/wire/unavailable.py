"""The hint that the service cannot answer now, in Celery's RETRY and FAILURE results.

It is plain, so anyone who can write to the result store can forge it. Clients therefore only show
it: they wait and send again as without it.
"""

from typing import Any, Literal, NamedTuple, get_args

CODE = "unavailable"
MAX_AGE = 60  # seconds after the announced try: then nobody has confirmed the hint
MAX_RETRY_IN = 3_600  # seconds; a forged hint must not let a producer that obeys it sleep for years
_LIMIT = 10**11

Part = Literal["database", "credentials", "storage", "service"]
"""The part of the service that is unavailable; `service` is any other."""

_SUBJECTS: dict[Part, str] = {
    "database": "the service's database is unavailable",
    "credentials": "the service has no valid credentials for storage",
    "storage": "the storage does not answer the service",
    "service": "the service is unavailable",
}


class Unavailable(NamedTuple):
    """A hint. retry_in is the time in seconds until the service tries again by itself; None: never.

    at is the time of the hint, in whole seconds of Unix time.
    """

    part: Part
    retry_in: int | None
    at: int

    @property
    def subject(self) -> str:
        """The part that is unavailable, as a clause."""
        return _SUBJECTS[self.part]

    def celery_error(self) -> dict[str, Any]:
        """Return the hint as an exception in Celery's JSON, which plain Celery producers can read.

        They ignore the members code, part, retry_in and at.
        """
        if self.retry_in is None:
            outlook = "it does not try again by itself: send the same message again"
        else:
            outlook = f"it tries again in {self.retry_in} s"
        return {
            "exc_type": "ServiceUnavailable",
            "exc_message": [f"{self.subject}; {outlook}"],
            "exc_module": "valetkey.errors",
            "code": CODE,
            **{name: value for name, value in self._asdict().items() if value is not None},
        }


def read_unavailable(result: Any, now: float) -> Unavailable | None:
    """Return the hint in a result; None if there is none, or if it is no longer news at `now`.

    An unknown part counts as `service`. No text of the result is used.
    """
    if not isinstance(result, dict) or result.get("code") != CODE:
        return None
    at, retry_in = _whole(result.get("at")), _whole(result.get("retry_in"))
    if at is None or abs(now - at) > min(retry_in or 0, MAX_AGE) + MAX_AGE:
        return None
    part: Part = "service"
    for known in get_args(Part):
        part = known if result.get("part") == known else part
    return Unavailable(part, retry_in and min(retry_in, MAX_RETRY_IN), at)


def _whole(value: Any) -> int | None:
    """Return a whole number that is small enough to compute with; None for anything else."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value < _LIMIT else None
