import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.terms import MAX_MULTIPART_BYTES, MAX_OBJECT_BYTES, MIN_PART_BYTES
from worker.core.signing.multipart_plan import DEFAULT_PART_BYTES, plan_parts

SIZES = st.integers(0, MAX_MULTIPART_BYTES)
PART_SIZES = st.none() | st.integers(MIN_PART_BYTES, MAX_OBJECT_BYTES)


@given(SIZES, PART_SIZES)
def test_the_parts_are_the_whole_file_and_each_one_storage_takes(
    size: int, part_size: int | None
) -> None:
    planned = plan_parts(size, part_size)
    if planned is None:
        assert part_size is not None
        assert size > 10_000 * part_size
        return
    last = planned.part_count
    assert 1 <= last <= 10_000
    assert (last - 1) * planned.part_size + planned.length(last) == size
    assert last == 1 or planned.length(1) >= MIN_PART_BYTES
    assert last == 1 or planned.length(last) > 0


def test_a_file_of_usual_size_is_cut_into_usual_parts() -> None:
    planned = plan_parts(100 * 1024**2, None)
    assert planned is not None
    assert (planned.part_size, planned.part_count) == (DEFAULT_PART_BYTES, 7)


@pytest.mark.parametrize("size", [5 * 1024**3 + 1, 1024**4, MAX_MULTIPART_BYTES])
def test_the_largest_files_fit_ten_thousand_parts(size: int) -> None:
    planned = plan_parts(size, None)
    assert planned is not None
    assert planned.part_count <= 10_000
