from datetime import UTC, datetime, timedelta

import pytest

from valetkey.signing.signing_context import Validity, apply_signing_limits
from valetkey.signing.sigv4 import Credentials
from valetkey.wire.refusals import Refusal

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
REQUESTED = Validity(NOW, 900, "request")
LONG = 604_800  # seconds; more than any validity here


def credentials(seconds: float | None) -> Credentials:
    """Return credentials that expire after a number of seconds, or never."""
    expires_at = None if seconds is None else NOW + timedelta(seconds=seconds)
    return Credentials("AKIA", "SECRET", expires_at=expires_at)


@pytest.mark.parametrize(
    ("min_seconds", "maximum", "credential_seconds", "expires_in", "limited_by"),
    [
        (None, LONG, None, 900, "request"),
        (None, 899, None, 899, "provider"),
        (None, LONG, 900, 900, "request"),
        (None, LONG, 899, 899, "credentials"),
        (None, 600, 700, 600, "provider"),
        (None, 600, 300, 300, "credentials"),
        (None, 300, 600, 300, "provider"),
        (None, LONG, 299.9, 299, "credentials"),
        (600, LONG, 600, 600, "credentials"),  # exactly the minimum
        (None, LONG, 1, 1, "credentials"),
    ],
)
def test_the_providers_maximum_applies_first_and_the_last_limit_that_shortens_is_named(
    min_seconds: int | None,
    maximum: int,
    credential_seconds: float | None,
    expires_in: int,
    limited_by: str,
) -> None:
    limited = apply_signing_limits(REQUESTED, min_seconds, maximum, credentials(credential_seconds))
    assert limited == Validity(NOW, expires_in, limited_by)


def test_a_limit_of_the_policy_is_named_if_no_other_shortens_the_validity() -> None:
    validity = Validity(NOW, 900, "policy")
    assert apply_signing_limits(validity, None, LONG, credentials(None)) == validity


@pytest.mark.parametrize(
    ("min_seconds", "maximum", "credential_seconds", "limit", "reason"),
    [
        (601, 600, None, 600, "storage does not accept"),
        (601, LONG, 600, 600, "credentials that sign"),
        (301, 600, 300, 300, "credentials that sign"),
        (901, LONG, None, 900, "has to expire before"),
        (None, LONG, 0, 0, "credentials that sign"),
        (None, LONG, -60, 0, "credentials that sign"),
    ],
)
def test_a_validity_below_the_minimum_is_refused_with_the_seconds_that_are_possible(
    min_seconds: int | None,
    maximum: int,
    credential_seconds: float | None,
    limit: int,
    reason: str,
) -> None:
    refusal = apply_signing_limits(REQUESTED, min_seconds, maximum, credentials(credential_seconds))
    assert isinstance(refusal, Refusal)
    assert (str(refusal.code), refusal.field) == ("expiry_too_short", "grant.min_expires_in")
    assert refusal.limit == limit
    assert reason in refusal.message
