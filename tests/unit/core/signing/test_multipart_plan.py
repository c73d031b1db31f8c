import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.terms import MAX_MULTIPART_BYTES, MAX_OBJECT_BYTES, MIN_PART_BYTES
from worker.core.signing.multipart_plan import DEFAULT_PART_BYTES, plan_parts

SIZES = st.integers(0, MAX_MULTIPART_BYTES)
PART_SIZES = st.none() | st.integers(MIN_PART_BYTES, MAX_OBJECT_BYTES)


@given(SIZES, PART_SIZES)
def test_the_parts_add_up_to_the_file_and_stay_within_the_limits_of_s3(
    size: int, part_size: int | None
) -> None:
    plan = plan_parts(size, part_size)
    if plan is None:
        assert part_size is not None
        assert size > 10_000 * part_size
        return
    last = plan.part_count
    assert 1 <= last <= 10_000
    assert (last - 1) * plan.part_size + plan.part_length(last) == size
    assert last == 1 or plan.part_length(1) >= MIN_PART_BYTES
    assert last == 1 or plan.part_length(last) > 0


def test_a_file_of_100_mib_has_parts_of_the_default_size() -> None:
    plan = plan_parts(100 * 1024**2, None)
    assert plan is not None
    assert (plan.part_size, plan.part_count) == (DEFAULT_PART_BYTES, 7)


@pytest.mark.parametrize("size", [5 * 1024**3 + 1, 1024**4, MAX_MULTIPART_BYTES])
def test_the_largest_files_fit_ten_thousand_parts(size: int) -> None:
    plan = plan_parts(size, None)
    assert plan is not None
    assert plan.part_count <= 10_000
