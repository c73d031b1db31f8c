"""The statements of a revocation whose grants expire at different times, as AWS gets them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.builders.messages import DEMO
from worker.revoke.levers import Denial, plan_levers
from worker.revoke.policy_document import denial_statement
from worker.revoke.revocation_targets import LiveGrant, Target
from worker.rules.tenant_config import TenantConfig

FIRST = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
LAST = FIRST + timedelta(hours=1)
CONFIG = TenantConfig({"demo": DEMO, "other": replace(DEMO, name="other", bucket="valetkey-other")})


def grant(number: int, expires_at: datetime, bucket: str = "demo") -> LiveGrant:
    key = f"acme/{number}"
    return LiveGrant("acme", "b", 1, 0, number, "download", bucket, key, None, expires_at)


def denied(targeted: Sequence[LiveGrant], *others: LiveGrant) -> list[tuple[Any, Any]]:
    """Return the end of each statement and the objects that it denies."""
    levers = plan_levers(Target("batch", "b"), targeted, [*targeted, *others], CONFIG)
    denials = [lever for lever in levers if isinstance(lever, Denial)]
    statements = [denial_statement(replace(denial, is_aws=True), "r") for denial in denials]
    return [(each["Condition"]["DateLessThan"], each["Resource"]) for each in statements]


def until(hour: int) -> dict[str, str]:
    return {"aws:CurrentTime": f"2026-11-24T{hour}:30:00Z"}


@pytest.mark.parametrize("ends", [(FIRST, LAST), (LAST, FIRST)])
def test_all_grants_of_a_revocation_are_denied_until_the_last_of_them_expires(
    ends: tuple[datetime, datetime],
) -> None:
    grants = [grant(number, end) for number, end in enumerate(ends)]
    arns = [f"arn:aws:s3:::valetkey-demo/acme/{number}" for number in range(2)]
    assert denied(grants) == [(until(13), arns)]


def test_each_bucket_is_denied_until_the_last_of_its_own_grants_expires() -> None:
    assert denied([grant(0, FIRST), grant(1, LAST, "other")]) == [
        (until(12), ["arn:aws:s3:::valetkey-demo/acme/0"]),
        (until(13), ["arn:aws:s3:::valetkey-other/acme/1"]),
    ]


def test_a_grant_that_is_not_denied_makes_no_statement_longer() -> None:
    assert [end for end, _ in denied([grant(0, FIRST)], grant(1, LAST))] == [until(12)]
