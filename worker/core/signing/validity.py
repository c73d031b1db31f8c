"""The validity period of grants, and the limits that shorten it."""

from datetime import datetime, timedelta
from typing import NamedTuple

from valetkey.wire.refusals import Code, Refusal
from worker.core.signing.sigv4 import Credentials

_REASONS = {
    "provider": "storage does not accept a grant for so long, or the upload of the part ends",
    "credentials": "the credentials that sign expire before that",
}


class Validity(NamedTuple):
    """The time of issue, the validity in seconds, and the limit that decided it."""

    issued_at: datetime
    expires_in: int
    limited_by: str

    @property
    def expires_at(self) -> datetime:
        """The moment from which storage refuses the grant."""
        return self.issued_at + timedelta(seconds=self.expires_in)

    def remaining(self, now: datetime) -> timedelta:
        """Return the time until the expiry; negative after it.

        Never more than the whole validity, even if the clock is behind the one that issued it.
        """
        return min(self.expires_at - now, timedelta(seconds=self.expires_in))

    def limit_to(self, seconds: int, limited_by: str) -> "Validity":
        """Return this validity, shortened to a number of seconds if it is longer."""
        if self.expires_in <= seconds:
            return self
        return Validity(self.issued_at, seconds, limited_by)

    def limit_to_credentials(self, credentials: Credentials) -> "Validity":
        """Return this validity, shortened to the expiry of the credentials if that is earlier.

        A URL stops working with its credentials, whatever X-Amz-Expires says.
        Source: AWS, using-presigned-url.html.
        """
        expires_at = credentials.expires_at
        if expires_at is None or self.expires_at <= expires_at:
            return self
        seconds = int((expires_at - self.issued_at).total_seconds())
        return Validity(self.issued_at, seconds, "credentials")


def apply_signing_limits(
    validity: Validity, min_seconds: int | None, max_seconds: int, credentials: Credentials
) -> Validity | Refusal:
    """Shorten a validity to the limits of the provider and the credentials, or refuse it.

    A result below min_seconds, or below one second, is refused.
    """
    result = validity.limit_to(max_seconds, "provider").limit_to_credentials(credentials)
    if result.expires_in < (min_seconds or 1):
        return Refusal(
            code=Code.EXPIRY_TOO_SHORT,
            field="grant.min_expires_in",
            message=_REASONS.get(result.limited_by, "the grant has to expire before that"),
            limit=max(result.expires_in, 0),
        )
    return result
