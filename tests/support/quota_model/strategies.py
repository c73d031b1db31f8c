"""The strategies that random tests of quotas draw from."""

from datetime import timedelta

from hypothesis import strategies as st

from tests.support.quota_model.batches import MAX_BYTES, MAX_SECONDS, METRICS, ModelBatch, ModelItem
from tests.support.quota_model.model import WINDOWS

choices = st.integers(0, 5)  # taken modulo the number of options
metrics = st.sampled_from(METRICS)
windows = st.sampled_from(WINDOWS)
sixths = st.integers(1, 6)  # of the maximum limit
new_batches = st.integers(1, 2).flatmap(
    lambda size: st.builds(
        ModelBatch,
        st.just(""),
        st.sampled_from(["download", "upload", "put"]),
        st.sampled_from(
            [60, 3_600, MAX_SECONDS, 60, 3_600, MAX_SECONDS, MAX_SECONDS + 1]
        ),  # seconds
        st.just(size),
        st.lists(
            st.builds(ModelItem, st.integers(0, MAX_BYTES), st.integers(0, 3).map(bool)),
            min_size=size,
            max_size=3 * size,
        ),
    )
)
step_names = st.sampled_from(["issue", "issue", "issue", "cancel", "cleanup"])
waits = st.sampled_from(  # to ends of windows and of grants, and beyond everything that is kept
    [timedelta(seconds=seconds) for seconds in (1, 59, 60, 1_799, 3_600)]
    + [timedelta(days=days) for days in (1, 1, 2, 31)]
)
