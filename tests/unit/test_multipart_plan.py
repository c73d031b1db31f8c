import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.terms import LARGEST_MULTIPART, LARGEST_OBJECT, SMALLEST_PART
from worker.core.multipart import USUAL_PART, plan

SIZES = st.integers(0, LARGEST_MULTIPART)
PART_SIZES = st.none() | st.integers(SMALLEST_PART, LARGEST_OBJECT)


@given(SIZES, PART_SIZES)
def test_the_parts_are_the_whole_file_and_each_one_storage_takes(
    size: int, part_size: int | None
) -> None:
    planned = plan(size, part_size)
    if planned is None:
        assert part_size is not None
        assert size > 10_000 * part_size
        return
    last = planned.part_count
    assert 1 <= last <= 10_000
    assert (last - 1) * planned.part_size + planned.length(last) == size
    assert last == 1 or planned.length(1) >= SMALLEST_PART
    assert last == 1 or planned.length(last) > 0


def test_a_file_of_usual_size_is_cut_into_usual_parts() -> None:
    planned = plan(100 * 1024**2, None)
    assert planned is not None
    assert (planned.part_size, planned.part_count) == (USUAL_PART, 7)


@pytest.mark.parametrize("size", [5 * 1024**3 + 1, 1024**4, LARGEST_MULTIPART])
def test_the_largest_files_fit_ten_thousand_parts(size: int) -> None:
    planned = plan(size, None)
    assert planned is not None
    assert planned.part_count <= 10_000
