"""Which of several bucket profiles is used for one bucket or role."""

from collections.abc import Sequence

import pytest

from worker.core.tenants.config import Bucket, TenantConfig

CONFIG = TenantConfig(
    {
        name: Bucket(name, bucket, "us-east-1", "path")
        for name, bucket in (("other", "far"), ("first", "near"), ("second", "near"))
    }
)


@pytest.mark.parametrize(
    ("preferred", "found"),
    [
        ((), "first"),
        (("second",), "second"),
        (("removed", "second", "first"), "second"),
        (("other",), "first"),
        (("removed",), "first"),
    ],
)
def test_the_first_preferred_profile_that_is_wanted_is_found(
    preferred: Sequence[str], found: str
) -> None:
    bucket = CONFIG.find_bucket(lambda each: each.bucket == "near", preferred)
    assert bucket == CONFIG.buckets[found]


def test_no_profile_is_found_if_none_is_wanted() -> None:
    assert CONFIG.find_bucket(lambda each: each.bucket == "nowhere", ["first"]) is None
